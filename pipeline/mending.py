"""``repair`` and ``verify --sample``: what takes an experiment's settings, a teacher, and its images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pipeline import cluster, graph
from pipeline.answers import Answer, command_of, opened, users_of
from pipeline.config import load_settings
from pipeline.experiments import RESOLVED
from pipeline.home import beneath_of
from pipeline.tables import plural, table
from stages import repair as mend
from stages.context import Context, Step
from storage_schemas.errors import MissingInputError
from storage_schemas.inventory import find_place
from storage_schemas.places import Place

__all__ = ["repair", "sampled"]


def repair(options: argparse.Namespace) -> Answer:
    """Make the damaged files of an entry again."""
    home, store = opened(options)
    context, step = step_of(home, find_place(store, options.key))
    cluster.connect()
    try:
        cluster.check_resources(context.settings.cluster, context.device)
        cluster.check_home(home)
        mended = mend.repair(context, step)
    finally:
        cluster.disconnect()
    what = f"{plural(len(mended), 'file')} made again" if mended else "nothing was damaged"
    return Answer({"entry": step.place, "mended": mended}, "\n".join([*mended, f"{step.place}: {what}"]))


def sampled(home: Place, places: Sequence[str], *, rows: int) -> Answer:
    """Ask the teachers of targets anew about some rows; ``places`` are of the kind 'targets'."""
    samples = {place: mend.sample(*step_of(home, place), rows=rows) for place in places}
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


def step_of(home: Place, place: str) -> tuple[Context, Step]:
    """The step that left the entry at a place, with the settings of an experiment that refers to it.

    Raises:
        MissingInputError: no experiment of this home does, or none whose settings lead to it on this machine.
    """
    users = users_of(home).get(place, [])
    for name in users:
        settings = load_settings(str(home / "runs" / name / RESOLVED), [])
        device = cluster.device(settings.cluster)
        context = Context(settings, home, device, command=command_of(home, name), beneath=beneath_of(None))
        for module in graph.STAGES.values():
            for step in module.steps(context):
                if step.place == place:
                    return context, step
    if not users:
        raise MissingInputError(
            f"No experiment of {home} uses {place}, so it is not known where its images are",
            allowed="entries that 'python -m pipeline.cache ls' shows with an experiment",
            run="python -m pipeline.cache gc --dry-run   (which lists what nobody uses)",
        )
    raise MissingInputError(
        f"The settings of {', '.join(users)} do not lead to {place} on this machine",
        allowed="a machine with the same kind of device and the same versions of the libraries, and unchanged settings",
        run=f"{command_of(home, users[0])} --stage targets --dry-run",
    )
