"""The stages in order, whether they can run, and running them: what is there is not made again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import get_args

from pipeline import experiments
from stages import distill, evaluate, prepare, teachers
from stages.base import Context, Stage, StageName, Step
from stages.report import stage as report
from stages.targets import stage as targets
from storage_schemas.errors import ConfigError, MissingInputError, Remedy
from storage_schemas.store.inventory import Inventory

__all__ = ["STAGES", "awaited", "check", "is_forced", "make_stage", "named", "refer"]

STAGES: dict[StageName, Stage] = {
    "prepare": prepare,
    "teachers": teachers,
    "targets": targets,
    "distill": distill,
    "evaluate": evaluate,
    "report": report,
}
assert tuple(STAGES) == get_args(StageName)

_NAMED = 3


def named(titles: Sequence[str]) -> str:
    """The first few, and how many there are beside them: a student may wait for a hundred views."""
    more = len(titles) - _NAMED
    return ", ".join(titles[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def check(context: Context, stages: Sequence[StageName], force: Sequence[str] | None = None) -> None:
    """Work out the keys of all stages, so that whatever is not there is told before the first hour of work.

    Raises:
        ConfigError: one of the keys of ``force`` is that of none of the stages' entries.
        MissingInputError: a step waits for what none of ``stages`` makes; the message names every stage to run before.
        OdkdError: a file that the configuration names is not there or cannot be read.
    """
    order = list(STAGES)
    for stage in stages:
        others = [step for step in awaited(STAGES[stage].steps(context)) if step.stage not in stages]
        if others:
            others.sort(key=lambda step: order.index(step.stage))
            titles = named([step.title for step in others])
            before = list(dict.fromkeys(step.stage for step in others))
            raise MissingInputError(
                f"Stage '{stage}' needs results of {_and(before)} that are not there: {titles}",
                allowed=f"{', then '.join(before)} before it, or --stage all",
                remedy=Remedy("run", stage=before[0]),
            )

    if force:
        _check_keys(context, stages, force)


def _check_keys(context: Context, stages: Sequence[StageName], force: Sequence[str]) -> None:
    steps = [step for stage in stages for step in STAGES[stage].steps(context)]
    there = [step.entry_id for step in steps if context.find(step) is not None]
    for text in force:
        if any(is_forced(step, [text]) for step in steps):
            continue
        # A teacher's scores look like a student's, and are another stage's.
        other = next((name for name in STAGES if any(is_forced(step, [text]) for step in STAGES[name].steps(context))), None)
        raise ConfigError(
            f"--force {text}: no entry of {_and(stages)} in this experiment has that key",
            allowed=f"whole keys of what is there, alone or as kind/key: {named(there) or 'none yet'}",
            remedy=Remedy("run", stage=other, entry_id=text, force=True) if other else Remedy("list", home=str(context.home)),
        )


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def awaited(steps: Sequence[Step]) -> list[Step]:
    """All that the steps wait for, themselves or through others, each entry once."""
    found: dict[tuple[str, str], Step] = {}
    for step in steps:
        for other in (*awaited(step.waits_for), *step.waits_for):
            found[other.kind, other.key] = other
    return list(found.values())


def refer(context: Context, stages: Sequence[StageName]) -> None:
    """Note in the experiment's folder which entries of ``stages`` this run needs, so that nobody takes them for unused."""
    known = [step.entry_id for stage in stages for step in STAGES[stage].steps(context) if not step.waits_for]
    experiments.refer(context.run_dir, context.run, known)


def is_forced(step: Step, force: Sequence[str] | None) -> bool:
    """Whether ``--force`` means the entry of a step: without keys it means all of the stage, and is None where not given."""
    return force is not None and (not force or step.key in force or step.entry_id in force)


def make_stage(context: Context, stage: StageName, *, force: Sequence[str] | None, connect: Callable[[], None]) -> float | None:
    """Make what a stage lacks; the seconds it took, or None where nothing was missing.

    What earlier stages make is there: ``check`` has seen it. ``connect`` is called before any work, and not at all without.

    With ``force`` what the stage left is made again, or of that only what these keys name; it goes when the new is there.

    Raises:
        CorruptEntryError: what is to be made again was made from entries that are damaged; it stays.
    """
    start = time.monotonic()
    module = STAGES[stage]
    if force is not None:
        there = [step for step in module.steps(context) if is_forced(step, force) and context.find(step) is not None]
        if there:
            # Before any work: from damaged inputs, or without a cluster, it could not be made again.
            _check_inputs(context, stage, there)
            connect()
        for step in there:
            context.replace(step)
    refer(context, [stage])
    missing = _missing(context, module)
    if not missing:
        return None
    while missing:
        ready = [step for step in missing if not step.waits_for]
        assert ready, f"{stage} waits for {[other.title for other in awaited(missing)]}"
        connect()
        module.make(context, ready)
        # What waited has its key only now.
        refer(context, [stage])
        left = _missing(context, module)
        assert not {step.key for step in ready} & {step.key for step in left}, f"{stage} did not make {ready}"
        missing = left
    return time.monotonic() - start


def _check_inputs(context: Context, stage: StageName, made: Sequence[Step]) -> None:
    """Hold the files of all that stays, and ``made`` was made from, against their manifests; of this stage too."""
    order = list(STAGES)
    known = [step for before in order[: order.index(stage) + 1] for step in STAGES[before].steps(context)]
    again = {step.entry_id for step in made}
    inputs = {
        entry.entry_id: entry for step in known if step.entry_id not in again and (entry := context.find(step)) is not None
    }
    inventory = Inventory(inputs, {})
    needed = {entry_id for step in made for entry_id in inventory.made_from(context.need(step))}
    # In the order in which they were made, which is that in which they can be mended.
    for entry_id, entry in inputs.items():
        if entry_id in needed:
            context.check(entry)


def _missing(context: Context, stage: Stage) -> list[Step]:
    """What is not there, each entry once: two steps may be one entry, such as a student without teachers and its baseline."""
    missing = {(step.kind, step.key): step for step in stage.steps(context) if context.find(step) is None}
    return list(missing.values())
