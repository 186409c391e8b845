"""``repair`` and ``verify --sample``: what takes an experiment's settings, a teacher, and its images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pipeline import cluster, graph
from pipeline.cache.lookup import Answer, command_of, drop_of, entry_named, maker_of, names_of, opened, users_of
from pipeline.config.load import load_settings
from pipeline.home import upstream_of
from pipeline.text import table
from stages.base import Context, Step, TargetsStep, ViewStep
from stages.humanize import plural
from stages.targets import repair as mend
from storage_schemas.errors import (
    REPAIRABLE,
    CorruptEntryError,
    MissingInputError,
    OdkdError,
    StoreError,
    look_again,
)
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import is_unreadable

__all__ = ["repair", "sampled", "step_of"]


def repair(options: argparse.Namespace) -> Answer:
    """Take the damaged files of an entry out of the upstream home, where that has the same, and make the others again.

    Raises:
        StoreError: entries of its kind are made as a whole.
        MissingInputError: no experiment uses it.
        CorruptEntryError: files of it cannot be read, and may be whole.
        CorruptEntryError: its manifest cannot be read, so that nobody knows what its files should be.
        OdkdError: as ``step_of`` and ``stages.targets.repair.repair``.
    """
    home, store = opened(options)
    # One that is only in the environment is asked if something is damaged, and need not be within reach otherwise.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    # One whose manifest cannot be read counts as not there, and one in the upstream home would be taken for it.
    entry = entry_named(home, store, options.key, upstream=upstream)
    entry_id, kind, damaged = entry.entry_id, entry.manifest.kind, entry.damaged()
    if not damaged:
        return Answer({"entry": entry_id, "mended": [], "fetched": []}, f"{entry_id}: nothing was damaged")
    if unreadable := [problem for problem in damaged.values() if is_unreadable(problem)]:
        raise CorruptEntryError(
            f"{entry_id}: {unreadable[0]}", allowed="files that this user may read", run=look_again(entry_id, home)
        )
    upstream = upstream or upstream_of(None, home)
    twin = entry.twin(upstream) if upstream else None
    fetched = mend.fetch(entry, twin, list(damaged)) if twin else []
    left = [name for name in damaged if name not in fetched]
    told = [f"{entry_id}: {plural(len(fetched), 'file')} taken from {upstream}"] if fetched else []
    answer = {"entry": entry_id, "mended": list(damaged), "fetched": fetched}
    if not left:
        return Answer(answer, "\n".join([*fetched, *told]))
    users = users_of(home).get(entry_id, ())
    if not users:
        raise MissingInputError(
            "\n".join([*told, f"No experiment of {home} uses {entry_id}, so it is not known where its images are"]),
            allowed="entries that 'python -m pipeline.cache ls' shows with an experiment, or to drop it",
            run=drop_of(home, entry_id, users),
        )
    if kind not in REPAIRABLE:
        raise StoreError(
            "\n".join([*told, f"{entry_id} is made as a whole: it has no shards that could be computed one by one"]),
            allowed=f"repair of {' and '.join(REPAIRABLE)}; of others only with --upstream HOME, where that has the same files",
            run=entry.remake(maker_of(home, users, upstream)),
        )
    context, step = step_of(home, entry_id, upstream=upstream)
    assert isinstance(step, ViewStep | TargetsStep)

    def connect() -> None:
        cluster.connect()
        cluster.check_resources(context.settings.cluster, context.device)
        cluster.check_home(home, context.upstream)

    try:
        mend.repair(context, step, left, connect=connect)
    finally:
        cluster.disconnect()
    told.append(f"{entry_id}: {plural(len(left), 'file')} made again")
    return Answer(answer, "\n".join([*damaged, *told]))


def sampled(home: StorePath, entry_ids: Sequence[str], *, upstream: StorePath | None, rows: int) -> Answer:
    """Ask the teachers of targets anew about some rows; ``entry_ids`` are of the kind 'targets'."""
    samples = {entry_id: mend.sample(*step_of(home, entry_id, upstream=upstream), rows=rows) for entry_id in entry_ids}
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
    head = ("entry", "people", "maps that differ", "bits that differ", "for each that is set")
    return Answer({entry_id: asdict(found) for entry_id, found in samples.items()}, table(head, lines, right=head[1:]))


def step_of(home: StorePath, entry_id: str, *, upstream: StorePath | None) -> tuple[Context, Step]:
    """The step that left the entry at a place, with the settings of a run that refers to it.

    What it was made from lies in ``home``, or in the home ``upstream``.

    Raises:
        MissingInputError: no experiment of this home does, or none whose settings lead to it on this machine; or what it was
            made from is not there.
    """
    runs = users_of(home).get(entry_id, [])
    failed: list[str] = []
    waiting: dict[StorePath, list[Step]] = {}
    for run in runs:
        config = run.config
        if config is None:
            failed.append(f"The settings of '{run.experiment}' are lost")
            continue
        try:
            context = _context_of(home, config, upstream)
            steps = [step for module in graph.STAGES.values() for step in module.steps(context)]
        except OdkdError as error:
            # Its settings are of another release, or its data is not here: those of another run may do.
            failed.append(f"{config}: {error.seen}")
            continue
        for step in steps:
            if step.entry_id == entry_id:
                return context, step
        waiting[config] = graph.awaited([step for step in steps if step.kind == entry_id.partition("/")[0]])
    if not any(run.config for run in runs):
        lost = f"The settings of {', '.join(names_of(runs))}, which uses {entry_id}, are lost"
        nobody = f"No experiment of {home} uses {entry_id}"
        raise MissingInputError(
            f"{lost if runs else nobody}, so it is not known where its images are",
            allowed="entries of an experiment with its settings; or these as FILE, for a run that writes them down",
            run=f"{maker_of(home, runs)} --stage all",
        )
    elsewhere = "" if upstream else "; with --upstream HOME, where what it was made from lies in a team's home"
    for config, missing in waiting.items():
        if missing:
            # As long as that is so, its key cannot be worked out.
            raise MissingInputError(
                f"What {entry_id} was made from is not there: {graph.named([step.title for step in missing])}",
                allowed=f"an entry with all that it was made from{elsewhere}",
                run=f"{command_of(home, config, upstream)} --stage {missing[0].stage}",
            )
    raise MissingInputError(
        "\n".join([f"The settings of {', '.join(names_of(runs))} do not lead to {entry_id} on this machine", *failed]),
        allowed="a machine with the same kind of device and the same versions of the libraries, and unchanged settings"
        + elsewhere,
        run=f"{maker_of(home, runs, upstream)} --stage targets --dry-run",
    )


def _context_of(home: StorePath, config: StorePath, upstream: StorePath | None) -> Context:
    settings = load_settings(str(config))
    device = cluster.device(settings.cluster)
    return Context(settings, home, device, command=command_of(home, config, upstream), upstream=upstream)
