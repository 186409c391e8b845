"""``repair`` and ``verify --sample``: the commands that need an experiment's settings, a teacher and images."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from pipeline import cluster, graph
from pipeline.cache.entries import Result, Users, completed, entry_at, open_store
from pipeline.config.load import load_settings
from pipeline.experiments import Run
from pipeline.home import upstream_of
from pipeline.text import table
from stages.base import Context, Step, TargetsStep, ViewStep
from stages.humanize import plural
from stages.targets import repair as blocks
from storage_schemas.errors import REPAIRABLE, CorruptEntryError, MissingInputError, OdkdError, Remedy, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import entry_ids, find_entry_id

__all__ = ["repair", "sampled", "step_of"]

log = logging.getLogger("pipeline")


def repair(options: argparse.Namespace) -> Result:
    """Replace the damaged files of an entry: copy them from the upstream home, or recompute those of views and targets."""
    home, store = open_store(options)
    # The upstream of the environment is needed, and must be reachable, only if something is damaged.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    entry = entry_at(store, find_entry_id(store, options.keys[0]), upstream=upstream)
    entry_id, damaged = entry.entry_id, entry.damaged()
    if not damaged:
        return Result({"entry": entry_id, "repaired": [], "fetched": []}, f"{entry_id}: nothing was damaged")
    if unreadable := [f"{name} {problem}" for name, problem in damaged.items() if problem.kind == "unreadable"]:
        remedy = Remedy("verify", entry_id=entry_id, home=str(home))
        raise CorruptEntryError(f"{entry_id}: {unreadable[0]}", allowed="files that this user may read", remedy=remedy)
    upstream = upstream or upstream_of(None, home)
    twin = entry.twin(upstream) if upstream else None
    fetched = blocks.fetch(entry, twin, list(damaged)) if twin else []
    lines = [*damaged, *([f"{entry_id}: {plural(len(fetched), 'file')} copied from {upstream}"] if fetched else [])]
    if left := [name for name in damaged if name not in fetched]:
        users = Users.of(home)
        if entry_id in users.runs and entry.manifest.kind not in REPAIRABLE:
            raise StoreError(
                f"{entry_id} can only be rebuilt as a whole: it has no blocks to recompute",
                allowed=f"an entry of {' or '.join(REPAIRABLE)}; or --upstream HOME, if that home has the same files",
                remedy=users.completed(entry.remake(), entry_id, upstream),
            )
        with _step(home, entry_id, upstream) as (context, step):
            assert isinstance(step, ViewStep | TargetsStep)
            blocks.repair(context, step, left, connect=lambda: cluster.join(context))
        lines.append(f"{entry_id}: {plural(len(left), 'file')} recomputed")
    return Result({"entry": entry_id, "repaired": list(damaged), "fetched": fetched}, "\n".join(lines))


def sampled(options: argparse.Namespace) -> Result:
    """Run the teachers of some targets entries again on random instances, and compare the bits."""
    home, store = open_store(options)
    wanted = [find_entry_id(store, key) for key in options.keys]
    if not wanted:
        # The settings of an experiment say where the images are.
        used = Users.of(home).runs
        there = [entry_id for entry_id in entry_ids(store) if entry_id.startswith("targets/")]
        wanted = [entry_id for entry_id in there if entry_id in used]
        if 0 < len(wanted) < len(there):
            log.warning("Not checked, because no experiment uses them: %d entries of targets", len(there) - len(wanted))
    if not wanted:
        raise MissingInputError(
            f"No experiment uses any targets in {store.root}",
            allowed="targets of an experiment, whose settings say where the images are, or these as FILE",
            remedy=Remedy("run", stage="all", home=str(home)),
        )
    upstream, samples = upstream_of(options.upstream, home), {}
    for entry_id in wanted:
        with _step(home, entry_id, upstream) as (context, step):
            samples[entry_id] = blocks.sample(context, step, rows=options.sample)
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


@contextmanager
def _step(home: StorePath, entry_id: str, upstream: StorePath | None) -> Iterator[tuple[Context, Step]]:
    """The step of ``step_of``; errors inside suggest runs with its settings. Leave the cluster at the end."""
    context, step, run = step_of(home, entry_id, upstream=upstream)
    try:
        yield context, step
    except OdkdError as error:
        error.remedy = error.remedy and completed(error.remedy, home, [run], upstream)
        raise
    finally:
        cluster.disconnect()


def step_of(home: StorePath, entry_id: str, *, upstream: StorePath | None) -> tuple[Context, Step, Run]:
    """The step that leaves this entry, with the context and the run that has its settings.

    Raises ``MissingInputError`` if no settings lead to it on this machine, or inputs are in neither home.
    """
    users = Users.of(home)
    names, runs = ", ".join(users.names(entry_id)), [run for run in users.runs.get(entry_id, ()) if run.config]
    if not runs:
        lost = f"The settings of {names}, which uses {entry_id}, are lost"
        seen = lost if names else f"No experiment of {home} uses {entry_id}"
        raise MissingInputError(
            f"{seen}, so odkd does not know where its images are",
            allowed="an entry that 'ls' shows with an experiment, and its settings (as FILE, if they are lost)",
            remedy=users.completed(Remedy("run", stage="all"), entry_id, upstream) if names else users.drop(entry_id),
        )
    failed, waiting = list[str](), list[Remedy]()
    for run in runs:
        try:
            settings = load_settings(str(run.config))
            # One name for all contexts: the images are listed once in a run.
            context = Context(settings, home, cluster.device(settings.cluster), run="repair", upstream=upstream)
            steps = [step for module in graph.STAGES.values() for step in module.steps(context)]
        except OdkdError as error:
            # The settings are of another release, or the data is on another machine: try those of the next run.
            failed.append(f"{run.config}: {error.seen}")
            continue
        for step in steps:
            if step.entry_id == entry_id:
                return context, step, run
        if missing := graph.awaited([step for step in steps if step.kind == entry_id.partition("/")[0]]):
            # The key of the entry cannot be computed without the inputs.
            failed.append(f"{run.config}: inputs are missing, {graph.named([step.title for step in missing])}")
            waiting.append(completed(Remedy("run", stage=missing[0].stage), home, [run], upstream))
    raise MissingInputError(
        "\n".join([f"The settings of {names} do not lead to {entry_id} on this machine", *failed]),
        allowed="all inputs, the same kind of device, the same versions of the libraries and unchanged settings"
        + ("" if upstream else "; or --upstream HOME, if that home has the inputs"),
        remedy=users.completed([*waiting, Remedy("run", stage="targets", dry_run=True)][0], entry_id, upstream),
    )
