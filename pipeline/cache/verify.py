"""``verify``: compare the files of entries with their manifests."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.entries import Result, Users, completed, open_store, order_of
from pipeline.home import upstream_if_there, upstream_of
from pipeline.text import printable
from stages.humanize import plural, size_text
from storage_schemas.errors import CorruptEntryError, OdkdError, Remedy, SchemaVersionError
from storage_schemas.store import verify as verification
from storage_schemas.store.inventory import Inventory, find_entry_id, has_manifest, take_inventory

__all__ = ["verify"]

log = logging.getLogger("pipeline")


def verify(options: argparse.Namespace) -> Result:
    """Read every file of the named entries, or of all entries."""
    if options.sample:
        # Torch and Ray take seconds to import.
        from pipeline.cache.repair import sampled

        return sampled(options)
    # The progress bar takes longer to import than a list takes to print.
    from stages.progress import progress

    home, store = open_store(options)
    # The upstream of the environment is needed, and must be reachable, only if something is missing.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    wanted = {find_entry_id(store, key) for key in options.keys}
    inventory = take_inventory(store, wanted)
    users = Users.of(home)
    # Before the files are read, which may take hours: an unreachable upstream home is an error.
    missing = {} if wanted else _missing(inventory, users, options.upstream)
    manifests = [entry.manifest for entry in inventory.entries.values()]
    num_files = sum(len(manifest.files) for manifest in manifests)
    with progress("verify", num_files, "files") as bar:
        found = verification.verify(inventory, advance=bar.advance)
    if found and upstream is None:
        upstream = upstream_if_there(None, home)
    damaged = {
        entry_id: {"problems": damage.problems, "next": command(users.remedy(entry_id, damage, upstream))}
        for entry_id, damage in sorted(found.items(), key=lambda item: _repair_order(item[0], inventory))
    }
    others = {entry_id: error for entry_id, error in inventory.unreadable.items() if isinstance(error, SchemaVersionError)}
    data = {
        "entries": len(manifests),
        "files": num_files,
        "bytes": sum(manifest.size for manifest in manifests),
        "damaged": damaged,
        "other_versions": list(others),
        "missing": missing,
    }
    error: OdkdError | None = None
    if damaged:
        error = _error(damaged)
    elif wanted and others:
        error = next(iter(others.values()))
    return Result(data, "\n".join(_lines(users, data)), error)


def _repair_order(entry_id: str, inventory: Inventory) -> tuple[object, ...]:
    """The rank of a damaged entry in the order in which entries can be repaired: inputs first."""
    kind, entry = order_of(entry_id), inventory.entries.get(entry_id)
    return kind, sum(order_of(other) == kind for other in inventory.made_from(entry)) if entry else 0, entry_id


def _missing(inventory: Inventory, users: Users, option: str | None) -> dict[str, dict[str, Any]]:
    """For each experiment: the entries of its finished run that neither home has, and the command that rebuilds them."""
    finished = [run for experiment in users.experiments for run in experiment.runs if run.notes is None]
    lacking = frozenset().union(*(run.entry_ids for run in finished)) - inventory.entries.keys() - inventory.unreadable.keys()
    upstream = upstream_of(option, users.home) if lacking else None
    if upstream:
        lacking -= {entry_id for entry_id in lacking if has_manifest(upstream / "store" / entry_id)}
    found = {}
    for run in finished:
        # By stage: building the first entry of an experiment may build others, which are made from it.
        missing = sorted(run.entry_ids & lacking, key=lambda entry_id: (order_of(entry_id), entry_id))
        if missing:
            rebuild = completed(Remedy("run", entry_id=missing[0]), users.home, [run], upstream)
            found[run.experiment] = {"entries": missing, "next": command(rebuild)}
    return found


def _lines(users: Users, data: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the answer: damage with its remedy first, the sum last."""
    for entry_id, damage in data["damaged"].items():
        yield from (f"{entry_id}: {printable(problem)}" for problem in damage["problems"])
        yield f"  Next:    {damage['next']}"
    if others := data["other_versions"]:
        yield f"{plural(len(others), 'entry')} of another schema version, such as {others[0]}"
        yield f"  To delete one: {command(users.drop(others[0], dry_run=True))}"
    for name, lacking in data["missing"].items():
        # This is no damage: a run rebuilds dropped entries when it needs them.
        yield f"Experiment '{name}': {plural(len(lacking['entries']), 'entry')} missing, such as {lacking['entries'][0]}"
        yield f"  To rebuild, unless --upstream HOME has it: {lacking['next']}"
    read = f"{plural(data['entries'], 'entry')}, {plural(data['files'], 'file')}, {size_text(data['bytes'])}"
    bad = sum(len(damage["problems"]) for damage in data["damaged"].values())
    result = f"{plural(bad, 'damaged file')} in {plural(len(data['damaged']), 'entry')}" if bad else "OK"
    yield f"{read}: {result}"


def _error(damaged: Mapping[str, Mapping[str, Any]]) -> OdkdError:
    (first, about), *more = damaged.items()
    return CorruptEntryError(
        f"{first} and {plural(len(more), 'more entry')} are damaged" if more else f"{first} is damaged",
        allowed="files as the manifests describe them",
        remedy=Remedy("advice", text="the commands behind 'Next:' above, in their order" if more else about["next"]),
    )
