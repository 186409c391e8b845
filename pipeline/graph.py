"""The stages in order, what each would do, and doing it: an entry is a hit, or it is missing or stale, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from pipeline import experiments
from stages import distill, evaluate, prepare, report, targets, teachers
from stages.context import Context, StageName, Step
from storage_schemas.errors import MissingInputError

__all__ = ["STAGES", "Planned", "check", "make_stage", "plan", "refer", "render_plan"]

STAGES: dict[StageName, ModuleType] = {
    "prepare": prepare,
    "teachers": teachers,
    "targets": targets,
    "distill": distill,
    "evaluate": evaluate,
    "report": report,
}
assert tuple(STAGES) == get_args(StageName)

Status = Literal["hit", "miss", "stale"]


@dataclass(frozen=True)
class Planned:
    """What a run would do about one step, and why."""

    step: Step
    status: Status
    why: str


def plan(context: Context, stages: Sequence[StageName], *, force: bool = False) -> list[Planned]:
    """What running ``stages`` would do, without doing it; with ``force`` what is there is made again."""
    return [_planned(context, step, force=force) for stage in stages for step in STAGES[stage].steps(context)]


def _planned(context: Context, step: Step, *, force: bool) -> Planned:
    entry = context.find(step)
    if entry is not None and force:
        return Planned(step, "stale", "there, and --force makes it again")
    if entry is not None:
        return Planned(step, "hit", f"made {entry.manifest.made['at']}")
    waiting = _named([other.title for other in step.waits_for])
    nearest = context.store.nearest(step.kind, step.recipe, same=step.same)
    changed = [] if nearest is None else [field for field in nearest[1] if not _is_pending(field[1])]
    # What differs in many fields is another thing altogether (another role), and no earlier version of this one.
    if nearest is not None and changed and len(changed) <= _NEAR:
        fields = ", ".join(f"{name}: {' -> '.join(_short(there, here))}" for name, here, there in changed)
        return Planned(step, "stale", f"differs from {nearest[0].key} in {fields}")
    return Planned(step, "miss", f"waits for {waiting}" if waiting else "never made")


_NEAR = 6
_NAMED = 3
_SHORT = 24


def _named(titles: Sequence[str]) -> str:
    """The first few, and how many there are beside them: a student may wait for a hundred views."""
    more = len(titles) - _NAMED
    return ", ".join(titles[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_pending(value: object) -> bool:
    return isinstance(value, str) and value.startswith("pending ")


def _short(*values: object) -> list[str]:
    """Values that differ, in few letters and so that they still do: where all begin alike the beginning is left out."""
    texts = [f"{value:g}" if isinstance(value, float) else str("nothing" if value is None else value) for value in values]
    if len(set(texts)) < len(texts):
        texts = [str(value) for value in values]
    if all(len(text) <= _SHORT for text in texts):
        return texts
    columns = zip(*texts, strict=False)
    alike = next((at for at, letters in enumerate(columns) if len(set(letters)) > 1), min(map(len, texts)))
    start = 0 if alike < _SHORT // 2 else alike
    return [_cut(text, start) for text in texts]


def _cut(text: str, start: int) -> str:
    rest = text[start:]
    return ("..." if start else "") + (rest if len(rest) <= _SHORT else f"{rest[: _SHORT // 2]}...")


def render_plan(planned: Sequence[Planned]) -> str:
    """The plan as lines; equal statuses of one stage with the same reason are one line."""
    lines: list[str] = []
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for item in planned:
        groups.setdefault((item.step.stage, item.status, item.why if item.status != "hit" else ""), []).append(item)
    for (stage, status, why), items in groups.items():
        title = items[0].step.title if len(items) == 1 else f"{items[0].step.title} and {len(items) - 1} more"
        keys = items[0].step.key if not items[0].step.waits_for else "key follows"
        lines.append(f"{stage:9} {status:5} {title} ({keys})" + (f": {why}" if why else ""))
    return "\n".join(lines)


def check(context: Context, stages: Sequence[StageName]) -> None:
    """Work out the keys of all stages, so that a file which is not there is told before the first hour of work.

    Raises:
        OdkdError: a file that the configuration names is not there or cannot be read.
    """
    for stage in stages:
        STAGES[stage].steps(context)


def refer(context: Context, stages: Sequence[StageName]) -> None:
    """Note in the experiment's folder which entries of ``stages`` it needs, so that nobody takes them for unused meanwhile."""
    known = [step.place for stage in stages for step in STAGES[stage].steps(context) if not step.waits_for]
    experiments.refer(context.run_dir, known)


def make_stage(context: Context, stage: StageName, *, force: bool, connect: Callable[[], None]) -> float | None:
    """Make what a stage lacks; the seconds it took, or None where nothing was missing.

    ``connect`` is called before any work, and not at all without work.

    With ``force`` what the stage left is taken out of the store first.

    Raises:
        MissingInputError: a step waits for what another stage makes; the message names the first stage to run.
    """
    start = time.monotonic()
    module = STAGES[stage]
    if force:
        there = [step for step in module.steps(context) if context.find(step) is not None]
        if there:
            # Before anything is taken away: without a cluster it could not be made again.
            connect()
        for step in there:
            context.forget(step)
    refer(context, [stage])
    missing = _missing(context, module)
    if not missing:
        return None
    while missing:
        ready = [step for step in missing if not step.waits_for]
        if not ready:
            first = _first_to_make(missing)
            raise MissingInputError(
                f"Stage '{stage}' needs the {first.title}, which is not there",
                run=f"{context.command} --stage {first.stage}   (or --stage all)",
            )
        connect()
        module.make(context, ready)
        # What waited has its key only now.
        refer(context, [stage])
        left = _missing(context, module)
        assert not {step.key for step in ready} & {step.key for step in left}, f"{stage} did not make {ready}"
        missing = left
    return time.monotonic() - start


def _first_to_make(waiting: Sequence[Step]) -> Step:
    """Of all that the steps wait for in the end, that of the earliest stage: its command can be run now."""
    ends = [step for step in waiting if not step.waits_for]
    order = list(STAGES)
    below = [_first_to_make(step.waits_for) for step in waiting if step.waits_for]
    return min([*ends, *below], key=lambda step: order.index(step.stage))


def _missing(context: Context, module: ModuleType) -> list[Step]:
    """What is not there, each entry once: two steps may be one entry, such as a student without teachers and its baseline."""
    missing = {(step.kind, step.key): step for step in module.steps(context) if context.find(step) is None}
    return list(missing.values())
