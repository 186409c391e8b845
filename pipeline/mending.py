"""``repair`` and ``verify --sample``: what takes an experiment's settings, a teacher, and its images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pipeline import cluster, graph
from pipeline.answers import Answer, command_of, entry_named, mend_of, names_of, opened, use_of, users_of
from pipeline.config import load_settings
from pipeline.home import beneath_of
from pipeline.tables import plural, table
from stages import repair as mend
from stages.context import Context, Step
from storage_schemas.errors import REPAIRABLE, CorruptEntryError, MissingInputError, OdkdError, StoreError
from storage_schemas.parts import is_unreadable
from storage_schemas.places import Place

__all__ = ["repair", "sampled", "step_of"]


def repair(options: argparse.Namespace) -> Answer:
    """Make the damaged files of an entry again.

    Raises:
        StoreError: entries of its kind are made as a whole.
        CorruptEntryError: files of it cannot be read, and may be whole.
        CorruptEntryError: its manifest cannot be read, so that nobody knows what its files should be.
        OdkdError: as ``step_of`` and ``stages.repair.repair``.
    """
    home, store = opened(options)
    beneath = beneath_of(options.beneath)
    # One whose manifest cannot be read counts as not there, and one in the home beneath would be taken for it.
    entry = entry_named(home, store, options.key, beneath=beneath)
    place, kind, damaged = entry.place, entry.manifest.kind, entry.damaged()
    if not damaged:
        return Answer({"entry": place, "mended": []}, f"{place}: nothing was damaged")
    then = mend_of(home, place, list(damaged.values()), users_of(home).get(place, ()), beneath=beneath)
    if unreadable := [problem for problem in damaged.values() if is_unreadable(problem)]:
        raise CorruptEntryError(f"{place}: {unreadable[0]}", run=then)
    if kind not in REPAIRABLE:
        raise StoreError(
            f"{place} is made as a whole: it has no shards that could be computed one by one",
            allowed=f"repair of {' and '.join(REPAIRABLE)}",
            run=then,
        )
    context, step = step_of(home, place, beneath=beneath)

    def connect() -> None:
        cluster.connect()
        cluster.check_resources(context.settings.cluster, context.device)
        cluster.check_home(home, context.beneath)

    try:
        mend.repair(context, step, list(damaged), connect=connect)
    finally:
        cluster.disconnect()
    told = f"{place}: {plural(len(damaged), 'file')} made again"
    return Answer({"entry": place, "mended": list(damaged)}, "\n".join([*damaged, told]))


def sampled(home: Place, places: Sequence[str], *, beneath: Place | None, rows: int) -> Answer:
    """Ask the teachers of targets anew about some rows; ``places`` are of the kind 'targets'."""
    samples = {place: mend.sample(*step_of(home, place, beneath=beneath), rows=rows) for place in places}
    lines = [
        (
            place,
            f"{found.rows:,}",
            f"{found.differing_maps:,} of {found.maps:,}",
            f"{found.differing / found.bits:.4%}",
            f"{found.differing / max(found.set_bits, 1):.2%}",
        )
        for place, found in samples.items()
    ]
    head = ("entry", "people", "maps that differ", "bits that differ", "for each that is set")
    return Answer({place: asdict(found) for place, found in samples.items()}, table(head, lines, right=head[1:]))


def step_of(home: Place, place: str, *, beneath: Place | None) -> tuple[Context, Step]:
    """The step that left the entry at a place, with the settings of a run that refers to it.

    What it was made from lies in ``home``, or in the home ``beneath``.

    Raises:
        MissingInputError: no experiment of this home does, or none whose settings lead to it on this machine.
    """
    runs = users_of(home).get(place, [])
    failed: list[str] = []
    for run in runs:
        try:
            if found := _step_by(home, run.config, place, beneath):
                return found
        except OdkdError as error:
            # Its settings are of another release, or its data is not here: those of another run may do.
            failed.append(f"{run.config}: {error.seen}")
    if not runs:
        raise MissingInputError(
            f"No experiment of {home} uses {place}, so it is not known where its images are",
            allowed="entries that 'python -m pipeline.cache ls' shows with an experiment",
            run=use_of(home),
        )
    raise MissingInputError(
        "\n".join([f"The settings of {', '.join(names_of(runs))} do not lead to {place} on this machine", *failed]),
        allowed="a machine with the same kind of device and the same versions of the libraries, and unchanged settings"
        + ("" if beneath else "; with --beneath HOME, where what it was made from lies in a team's home"),
        run=f"{command_of(home, runs[0].config, beneath)} --stage targets --dry-run",
    )


def _step_by(home: Place, config: Place, place: str, beneath: Place | None) -> tuple[Context, Step] | None:
    settings = load_settings(str(config))
    device = cluster.device(settings.cluster)
    context = Context(settings, home, device, command=command_of(home, config, beneath), beneath=beneath)
    for module in graph.STAGES.values():
        for step in module.steps(context):
            if step.place == place:
                return context, step
    return None
