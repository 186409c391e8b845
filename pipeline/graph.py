"""The stages in order, what each would do, and doing it: an entry is a hit, or it is missing or stale, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from stages import distill, evaluate, prepare, report, targets, teachers
from stages.context import Context, StageName, Step
from storage_schemas.errors import MissingInputError

__all__ = ["STAGES", "Planned", "check", "make_stage", "plan", "render_plan"]

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


def plan(context: Context, stages: Sequence[StageName]) -> list[Planned]:
    """What running ``stages`` would do, without doing it."""
    return [_planned(context, step) for stage in stages for step in STAGES[stage].steps(context)]


def _planned(context: Context, step: Step) -> Planned:
    entry = context.find(step)
    if entry is not None:
        return Planned(step, "hit", f"made {entry.manifest.made['at']}")
    waiting = _named([other.title for other in step.waits_for])
    nearest = context.store.nearest(step.kind, step.recipe)
    changed = [] if nearest is None else [field for field in nearest[1] if not _is_pending(field[1])]
    # Another kind of thing altogether (another split, another role) is no earlier version of this one.
    if nearest is not None and changed and len(changed) <= _NEAR:
        fields = ", ".join(f"{name}: {_short(there)} -> {_short(here)}" for name, here, there in changed)
        return Planned(step, "stale", f"differs from {nearest[0].key} in {fields}")
    return Planned(step, "miss", f"waits for {waiting}" if waiting else "never made")


_NEAR = 6
_NAMED = 3


def _named(titles: Sequence[str]) -> str:
    """The first few, and how many there are beside them: a student may wait for a hundred views."""
    more = len(titles) - _NAMED
    return ", ".join(titles[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_pending(value: object) -> bool:
    return isinstance(value, str) and value.startswith("pending ")


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


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


def make_stage(context: Context, stage: StageName, *, force: bool, connect: Callable[[], None]) -> float:
    """Make what a stage lacks; seconds it took. ``connect`` is called before the first work, and not at all without work."""
    start = time.monotonic()
    module = STAGES[stage]
    if force:
        for step in module.steps(context):
            context.forget(step)
    missing = _missing(context, module)
    while missing:
        ready = [step for step in missing if not step.waits_for]
        if not ready:
            first = missing[0].waits_for[0]
            raise MissingInputError(
                f"Stage '{stage}' needs the {first.title}, which is not there",
                run=f"{context.command} --stage {first.stage}   (or --stage all)",
            )
        connect()
        module.make(context, ready)
        left = _missing(context, module)
        assert not {step.key for step in ready} & {step.key for step in left}, f"{stage} did not make {ready}"
        missing = left
    return time.monotonic() - start


def _missing(context: Context, module: ModuleType) -> list[Step]:
    """What is not there, each entry once: two steps may be one entry, such as a student without teachers and its baseline."""
    missing = {(step.kind, step.key): step for step in module.steps(context) if context.find(step) is None}
    return list(missing.values())
