"""The stages in order: check that they can run, and make the entries that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import get_args

from pipeline import experiments
from stages import distill, evaluate, teachers
from stages.base import Context, Stage, StageName, Step
from stages.prepare import stage as prepare
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
    """The first three titles and the number of the others: a student can wait for a hundred views."""
    more = len(titles) - _NAMED
    return ", ".join(titles[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def check(context: Context, stages: Sequence[StageName], force: Sequence[str] | None = None) -> None:
    """Compute the keys of all stages, so that a missing input is reported before hours of work.

    Raises:
        ConfigError: a key of ``force`` belongs to no entry of the stages.
        MissingInputError: a step waits for an entry that none of ``stages`` makes; the message names the stages to run before.
        OdkdError: a file that the configuration names is missing or cannot be read.
    """
    order = list(STAGES)
    for stage in stages:
        others = [step for step in awaited(STAGES[stage].steps(context)) if step.stage not in stages]
        if others:
            others.sort(key=lambda step: order.index(step.stage))
            titles = named([step.title for step in others])
            before = list(dict.fromkeys(step.stage for step in others))
            raise MissingInputError(
                f"Stage '{stage}' needs results of {_and(before)} that are missing: {titles}",
                allowed=f"first {', then '.join(before)}; or --stage all",
                remedy=Remedy("run", stage=before[0]),
            )

    if force:
        _check_keys(context, stages, force)


def _check_keys(context: Context, stages: Sequence[StageName], force: Sequence[str]) -> None:
    steps = [step for stage in stages for step in STAGES[stage].steps(context)]
    existing = [step.entry_id for step in steps if context.find(step) is not None]
    for text in force:
        if any(is_forced(step, [text]) for step in steps):
            continue
        # The scores of teachers belong to stage teachers, and those of students to stage evaluate.
        other = next((name for name in STAGES if any(is_forced(step, [text]) for step in STAGES[name].steps(context))), None)
        raise ConfigError(
            f"--force {text}: no entry of {_and(stages)} in this experiment has that key",
            allowed=f"full keys of existing entries, alone or as kind/key: {named(existing) or 'none yet'}",
            remedy=Remedy("run", stage=other, entry_id=text, force=True) if other else Remedy("list", home=str(context.home)),
        )


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def awaited(steps: Sequence[Step]) -> list[Step]:
    """All steps that ``steps`` wait for, directly or through others, each entry once."""
    found: dict[tuple[str, str], Step] = {}
    for step in steps:
        for other in (*awaited(step.waits_for), *step.waits_for):
            found[other.kind, other.key] = other
    return list(found.values())


def refer(context: Context, stages: Sequence[StageName]) -> None:
    """Write to the experiment's folder which entries of ``stages`` this run needs, so that ``gc`` keeps them."""
    known = [step.entry_id for stage in stages for step in STAGES[stage].steps(context) if not step.waits_for]
    experiments.refer(context.run_dir, context.run, known)


def is_forced(step: Step, force: Sequence[str] | None) -> bool:
    """Whether ``--force`` rebuilds the entry of a step; None means no --force, and an empty list all entries of the stage."""
    return force is not None and (not force or step.key in force or step.entry_id in force)


def make_stage(context: Context, stage: StageName, *, force: Sequence[str] | None, connect: Callable[[], None]) -> float | None:
    """Make the missing entries of a stage, and return the seconds that it took; None if nothing was missing.

    The entries of earlier stages must exist (``check``). ``connect`` is called before any work, and only if there is some.
    ``force`` rebuilds entries (see ``is_forced``); an old entry is deleted when the new one is committed.

    Raises:
        CorruptEntryError: an input of an entry to rebuild is damaged; nothing is deleted.
    """
    start = time.monotonic()
    module = STAGES[stage]
    if force is not None:
        existing = [step for step in module.steps(context) if is_forced(step, force) and context.find(step) is not None]
        if existing:
            # Before anything is replaced: damaged inputs or a missing cluster would make the rebuild fail.
            _check_inputs(context, stage, existing)
            connect()
        for step in existing:
            context.replace(step)
    refer(context, [stage])
    missing = _missing(context, module)
    if not missing:
        return None
    while missing:
        ready = [step for step in missing if not step.waits_for]
        assert ready, f"{stage} waits for {[other.title for other in awaited(missing)]}"
        connect()
        context.store.watch([step.entry_id for step in ready])
        module.make(context, ready)
        # The keys of waiting steps can be computed only now that their inputs exist.
        refer(context, [stage])
        left = _missing(context, module)
        assert not {step.key for step in ready} & {step.key for step in left}, f"{stage} did not make {ready}"
        missing = left
    return time.monotonic() - start


def _check_inputs(context: Context, stage: StageName, made: Sequence[Step]) -> None:
    """Verify all entries that the entries of ``made`` were made from, except those that are rebuilt themselves."""
    order = list(STAGES)
    known = [step for before in order[: order.index(stage) + 1] for step in STAGES[before].steps(context)]
    again = {step.entry_id for step in made}
    inputs = {
        entry.entry_id: entry for step in known if step.entry_id not in again and (entry := context.find(step)) is not None
    }
    inventory = Inventory(inputs, {})
    needed = {entry_id for step in made for entry_id in inventory.made_from(context.need(step))}
    # In the order in which they were made, which is also the order to repair them in.
    for entry_id, entry in inputs.items():
        if entry_id in needed:
            context.check(entry)


def _missing(context: Context, stage: Stage) -> list[Step]:
    """The steps without an entry, each entry once: a student without teachers and its baseline, for example, are one entry."""
    missing = {(step.kind, step.key): step for step in stage.steps(context) if context.find(step) is None}
    return list(missing.values())
