"""``verify``: compare the files of entries with their manifests."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.lookup import (
    Result,
    experiment_run,
    open_store,
    order_of,
    remedy_of,
    run_with,
    users_of,
)
from pipeline.experiments import Run
from pipeline.home import upstream_if_there, upstream_of
from pipeline.text import printable
from stages.humanize import plural, size_text
from storage_schemas.errors import (
    CorruptEntryError,
    MissingInputError,
    OdkdError,
    Remedy,
    SchemaVersionError,
)
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import Inventory, Unreadable, find_entry_id, held, take_inventory
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import Verdict

__all__ = ["verify"]

log = logging.getLogger("pipeline")


def verify(options: argparse.Namespace) -> Result:
    """Read every file of the named entries, or of all entries."""
    if options.sample:
        return _sampled(options)
    # It draws bars, and takes longer to import than a list takes to print.
    from stages.progress import progress
    from storage_schemas.store import verify as verification

    home, store = open_store(options)
    # One that is only in the environment is asked if something is missing, and need not be within reach otherwise.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    wanted = {find_entry_id(store, key) for key in options.keys}
    inventory = take_inventory(store)
    inventory = inventory.only(wanted) if wanted else inventory
    users = users_of(home)
    # Before the files are read, which may take hours that an upstream home out of reach must not cost.
    missing = {} if wanted else _missing(home, inventory, users, options.upstream)
    total = sum(len(entry.manifest.files) for entry in inventory.entries.values())
    with progress("verify", total, "files") as bar:
        verdict = verification.verify(store, inventory, advance=bar.advance)
    if verdict.damaged and upstream is None:
        upstream = upstream_if_there(None, home)
    damaged = {
        entry_id: {
            "problems": verdict.damaged[entry_id],
            "next": command(
                remedy_of(
                    home,
                    entry_id,
                    found,
                    users.get(entry_id, []),
                    unreadable=entry_id in verdict.unreadable,
                    upstream=upstream,
                )
            ),
        }
        for entry_id, found in _in_order(inventory)
        if entry_id in verdict.damaged and not isinstance(found, SchemaVersionError)
    }
    if upstream and not verdict.entries and not damaged:
        log.warning("Entries of an upstream home are not read: --home %s does that", upstream)
    data = {
        "entries": len(verdict.entries),
        "files": verdict.num_files,
        "bytes": verdict.size,
        "damaged": damaged,
        "other_versions": verdict.other_versions,
        "unnamed": verdict.unnamed,
        "missing": missing,
    }
    error: OdkdError | None = _damage(damaged)
    if wanted and not error and verdict.other_versions:
        # It was to be looked at, and was not.
        error = inventory.unreadable[verdict.other_versions[0]]
    return Result(data, "\n".join(_lines(home, verdict, damaged, missing)), error)


def _in_order(inventory: Inventory) -> list[tuple[str, Entry | Unreadable]]:
    """Every entry in the order in which it can be repaired: by stage, and inputs before what was made from them."""

    def order(entry_id: str) -> tuple[int, int, str]:
        kind = entry_id.partition("/")[0]
        entry = inventory.entries.get(entry_id)
        sources = [] if entry is None else [other for other in inventory.made_from(entry) if other.startswith(f"{kind}/")]
        return order_of(kind), len(sources), entry_id

    found: dict[str, Entry | Unreadable] = {**inventory.entries, **inventory.unreadable}
    return [(entry_id, found[entry_id]) for entry_id in sorted(found, key=order)]


def _missing(
    home: StorePath, inventory: Inventory, users: Mapping[str, Sequence[Run]], option: str | None
) -> dict[str, dict[str, Any]]:
    """For each experiment: the entries of its figures that neither home has, and the command that rebuilds them."""
    lacking = {
        entry_id: ended
        for entry_id, runs in users.items()
        if entry_id not in inventory.entries
        and entry_id not in inventory.unreadable
        and (ended := [run for run in runs if run.notes is None])
    }
    upstream = upstream_of(option, home) if lacking else None
    there = held(Store(upstream / "store"), list(lacking)) if upstream else set()
    found: dict[str, dict[str, Any]] = {}
    # The first of an experiment is the first that can be made: the others may come with it, or be made from it.
    for entry_id in sorted(lacking.keys() - there, key=lambda entry_id: (order_of(entry_id.partition("/")[0]), entry_id)):
        for run in lacking[entry_id]:
            again = command(replace(experiment_run(home, [run], upstream), kind=entry_id.partition("/")[0]))
            about = found.setdefault(run.experiment, {"entries": [], "next": again})
            about["entries"].append(entry_id)
    return found


def _sampled(options: argparse.Namespace) -> Result:
    # Torch and Ray take seconds to import.
    from pipeline.cache.repair import sampled

    home, store = open_store(options)
    # Where an entry is used, there are settings that say where its images are.
    used = users_of(home)
    wanted = [find_entry_id(store, key) for key in options.keys]
    if not wanted:
        there = [entry.entry_id for entry in store.entries("targets")]
        wanted = [entry_id for entry_id in there if entry_id in used]
        if not wanted:
            raise MissingInputError(
                f"No experiment uses any of the {plural(len(there), 'entry')} of targets in {store.root}",
                allowed="targets of an experiment, whose settings say where the images are, or these as FILE",
                remedy=replace(run_with(home, None), stage="all"),
            )
        if len(wanted) < len(there):
            log.warning("Not looked at, since no experiment uses them: %d of the targets", len(there) - len(wanted))
    return sampled(home, wanted, upstream=upstream_of(options.upstream, home), rows=options.sample)


def _lines(
    home: StorePath, verdict: Verdict, damaged: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """The lines of the answer: damage with its remedy first, the sum last."""
    for entry_id, found in damaged.items():
        yield from (f"{entry_id}: {printable(problem)}" for problem in found["problems"])
        yield f"  Next:    {found['next']}"
    for entry_id, names in verdict.unnamed.items():
        yield from (f"{entry_id}: {printable(name)} is not named by the manifest, and not used" for name in names)
    if others := verdict.other_versions:
        yield (
            f"{plural(len(others), 'entry')} of another schema version, which the release that wrote it reads, such as "
            f"{others[0]}\n  To delete one: {command(Remedy('drop', entry_id=others[0], home=str(home), dry_run=True))}"
        )
    for name, found in missing.items():
        # This is no damage: a run rebuilds dropped entries when it needs them.
        yield (
            f"Experiment '{name}' names {plural(len(found['entries']), 'entry')} of which there is none, such as "
            f"{found['entries'][0]}\n  Made again, unless --upstream HOME has it, by: {found['next']}"
        )
    read = f"{plural(len(verdict.entries), 'entry')}, {plural(verdict.num_files, 'file')}, {size_text(verdict.size)}"
    bad = sum(map(len, verdict.damaged.values()))
    result = f"{plural(bad, 'damaged file')} in {plural(len(verdict.damaged), 'entry')}" if bad else "OK"
    yield f"{read}: {result}"


def _damage(damaged: Mapping[str, Mapping[str, Any]]) -> OdkdError | None:
    if not damaged:
        return None
    (first, about), *more = damaged.items()
    return CorruptEntryError(
        f"{first} and {plural(len(more), 'more entry')} are damaged" if more else f"{first} is damaged",
        allowed="files as the manifests describe them",
        remedy=Remedy("advice", text="the commands behind 'Next:' above, in their order" if more else about["next"]),
    )
