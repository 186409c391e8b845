"""``repair`` and ``verify --sample``: the commands that need an experiment's settings, a teacher and images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace

from pipeline import cluster, graph
from pipeline.cache.lookup import Result, entry_at, open_store
from pipeline.cache.users import Users, completed, completing, run_with
from pipeline.config.load import load_settings
from pipeline.home import upstream_of
from pipeline.text import table
from stages.base import Context, Step, TargetsStep, ViewStep
from stages.humanize import plural
from stages.targets import repair as blocks
from storage_schemas.errors import REPAIRABLE, CorruptEntryError, MissingInputError, OdkdError, Remedy, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry_id

__all__ = ["repair", "sampled", "step_of"]


def repair(options: argparse.Namespace) -> Result:
    """Replace the damaged files of an entry: copy them from the upstream home, or recompute those of views and targets.

    Raises:
        StoreError: the entry has no blocks that could be recomputed.
        MissingInputError: no experiment uses the entry.
        CorruptEntryError: its manifest is damaged; or files cannot be read, and may be intact.
        OdkdError: as ``step_of`` and ``stages.targets.repair.repair``.
    """
    home, store = open_store(options)
    # The upstream of the environment is needed, and must be reachable, only if something is damaged.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    entry = entry_at(home, store, find_entry_id(store, options.key), upstream=upstream)
    entry_id, damaged = entry.entry_id, entry.damaged()
    if not damaged:
        return Result({"entry": entry_id, "repaired": [], "fetched": []}, f"{entry_id}: nothing was damaged")
    if unreadable := [f"{name} {problem}" for name, problem in damaged.items() if problem.kind == "unreadable"]:
        remedy = Remedy("verify", entry_id=entry_id, home=str(home))
        raise CorruptEntryError(f"{entry_id}: {unreadable[0]}", allowed="files that this user may read", remedy=remedy)
    upstream = upstream or upstream_of(None, home)
    twin = entry.twin(upstream) if upstream else None
    fetched = blocks.fetch(entry, twin, list(damaged)) if twin else []
    left = [name for name in damaged if name not in fetched]
    lines = [f"{entry_id}: {plural(len(fetched), 'file')} copied from {upstream}"] if fetched else []
    data = {"entry": entry_id, "repaired": list(damaged), "fetched": fetched}
    if not left:
        return Result(data, "\n".join([*fetched, *lines]))
    users = Users.of(home)
    if entry_id not in users.runs:
        raise MissingInputError(
            "\n".join([*lines, f"No experiment of {home} uses {entry_id}, so odkd does not know where its images are"]),
            allowed="an entry that 'ls' shows with an experiment; an entry without one can be dropped",
            remedy=users.drop(entry_id),
        )
    if entry.manifest.kind not in REPAIRABLE:
        raise StoreError(
            "\n".join([*lines, f"{entry_id} can only be rebuilt as a whole: it has no blocks to recompute"]),
            allowed=f"an entry of {' or '.join(REPAIRABLE)}; or --upstream HOME, if that home has the same files",
            remedy=completed(entry.remake(), users.run(entry_id, upstream)),
        )
    _recompute(home, entry_id, left, upstream)
    lines.append(f"{entry_id}: {plural(len(left), 'file')} recomputed")
    return Result(data, "\n".join([*damaged, *lines]))


def _recompute(home: StorePath, entry_id: str, damaged: Sequence[str], upstream: StorePath | None) -> None:
    context, step, run = step_of(home, entry_id, upstream=upstream)
    assert isinstance(step, ViewStep | TargetsStep)

    def connect() -> None:
        cluster.connect()
        cluster.check_resources(context.settings.cluster, context.device)
        cluster.check_home(home, context.upstream)

    try:
        with completing(run):
            blocks.repair(context, step, damaged, connect=connect)
    finally:
        cluster.disconnect()


def sampled(home: StorePath, entry_ids: Sequence[str], *, upstream: StorePath | None, rows: int) -> Result:
    """Run the teachers of some targets entries again on ``rows`` random rows, and compare the bits."""
    samples = {}
    for entry_id in entry_ids:
        context, step, run = step_of(home, entry_id, upstream=upstream)
        with completing(run):
            samples[entry_id] = blocks.sample(context, step, rows=rows)
    lines = [
        (
            entry_id,
            f"{found.rows:,}",
            f"{found.differing_maps:,} of {found.maps:,}",
            f"{found.differing / found.bits:.4%}",
            f"{found.differing / max(found.set_bits, 1):.2%}",
        )
        for entry_id, found in samples.items()
    ]
    head = ("entry", "instances", "maps that differ", "bits that differ", "for each that is set")
    return Result({entry_id: asdict(found) for entry_id, found in samples.items()}, table(head, lines, right=head[1:]))


def step_of(home: StorePath, entry_id: str, *, upstream: StorePath | None) -> tuple[Context, Step, Remedy]:
    """The step that leaves this entry, with the context and the command of a run that refers to it.

    Its inputs are read from ``home``, or from the home ``upstream``.

    Raises:
        MissingInputError: no run of this home refers to it, or no run's settings lead to it on this machine; or inputs are
            missing.
    """
    users = Users.of(home)
    failed, waiting = list[str](), None
    for config in (run.config for run in users.runs.get(entry_id, ())):
        if config is None:
            continue
        run = run_with(home, config, upstream)
        try:
            settings = load_settings(str(config))
            context = Context(settings, home, cluster.device(settings.cluster), upstream=upstream)
            steps = [step for module in graph.STAGES.values() for step in module.steps(context)]
        except OdkdError as error:
            # The settings are of another release, or the data is on another machine: try those of the next run.
            failed.append(f"{config}: {error.seen}")
            continue
        for step in steps:
            if step.entry_id == entry_id:
                return context, step, run
        if missing := graph.awaited([step for step in steps if step.kind == entry_id.partition("/")[0]]):
            # The key of the entry cannot be computed without the inputs.
            failed.append(f"{config}: inputs are missing, {graph.named([step.title for step in missing])}")
            waiting = waiting or replace(run, stage=missing[0].stage)
    raise _no_step(users, entry_id, upstream, waiting, failed)


def _no_step(
    users: Users, entry_id: str, upstream: StorePath | None, waiting: Remedy | None, failed: Sequence[str]
) -> MissingInputError:
    """Why the settings of no run lead to the entry; ``waiting`` is the run that builds its missing inputs, if any are."""
    names, run = ", ".join(users.names(entry_id)), users.run(entry_id, upstream)
    if not run.config:
        lost = f"The settings of {names}, which uses {entry_id}, are lost"
        seen = lost if names else f"No experiment of {users.home} uses {entry_id}"
        return MissingInputError(
            f"{seen}, so odkd does not know where its images are",
            allowed="an entry of an experiment with its settings; a run with these settings as FILE writes them down",
            remedy=replace(run, stage="all"),
        )
    return MissingInputError(
        "\n".join([f"The settings of {names} do not lead to {entry_id} on this machine", *failed]),
        allowed="all inputs, the same kind of device, the same versions of the libraries and unchanged settings"
        + ("" if upstream else "; or --upstream HOME, if that home has the inputs"),
        remedy=waiting or replace(run, stage="targets", dry_run=True),
    )
