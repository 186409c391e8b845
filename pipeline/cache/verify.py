"""``verify`` and ``gc``: whether entries are whole, and which of them may go."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.lookup import (
    Result,
    experiment_remedy,
    experiment_run,
    open_store,
    order_of,
    remedy_of,
    run_with,
    users_of,
)
from pipeline.experiments import Run, experiments
from pipeline.home import upstream_if_there, upstream_of
from pipeline.text import printable, table
from stages.humanize import age_text, plural, size_text
from storage_schemas.errors import (
    CorruptEntryError,
    MissingInputError,
    OdkdError,
    Remedy,
    SchemaVersionError,
    StoreError,
)
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.gc import Garbage, find_garbage, remove
from storage_schemas.store.inventory import Inventory, Unreadable, find_place, held, take_inventory
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import Verdict

__all__ = ["gc", "verify"]

log = logging.getLogger("pipeline")


def verify(options: argparse.Namespace) -> Result:
    """Read every file of the entries that were named, or of all."""
    if options.sample:
        return _sampled(options)
    # It draws bars, and takes longer to import than a list takes to print.
    from stages.progress import progress
    from storage_schemas.store import verify as verification

    home, store = open_store(options)
    # One that is only in the environment is asked if something is missing, and need not be within reach otherwise.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    wanted = {find_place(store, key) for key in options.keys}
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
    return Result(data, "\n".join(_told(home, verdict, damaged, missing)), error)


def _in_order(inventory: Inventory) -> list[tuple[str, Entry | Unreadable]]:
    """Every place with what is there, in an order in which it can be mended: by stage, and what was made from others later."""

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
    """By experiment: the entries that its figures name and that are not here, nor in the upstream home, and what makes them."""
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
    wanted = [find_place(store, key) for key in options.keys]
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


def _told(
    home: StorePath, verdict: Verdict, damaged: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Lines: what is damaged and what mends it first, and the sum of all last."""
    for entry_id, found in damaged.items():
        yield from (f"{entry_id}: {printable(problem)}" for problem in found["problems"])
        yield f"  Next:    {found['next']}"
    for entry_id, names in verdict.unnamed.items():
        yield from (f"{entry_id}: {printable(name)} is not named by the manifest, and not used" for name in names)
    if others := verdict.other_versions:
        yield (
            f"{plural(len(others), 'entry')} of another schema version, which the release that wrote it reads, such as "
            f"{others[0]}\n  To take one away: {command(Remedy('drop', entry_id=others[0], home=str(home), dry_run=True))}"
        )
    for name, found in missing.items():
        # Nothing is wrong with that: what was dropped is made again where it is needed.
        yield (
            f"Experiment '{name}' names {plural(len(found['entries']), 'entry')} of which there is none, such as "
            f"{found['entries'][0]}\n  Made again, unless --upstream HOME has it, by: {found['next']}"
        )
    read = f"{plural(len(verdict.entries), 'entry')}, {plural(verdict.num_files, 'file')}, {size_text(verdict.size)}"
    bad = sum(map(len, verdict.damaged.values()))
    told = f"{plural(bad, 'damaged file')} in {plural(len(verdict.damaged), 'entry')}" if bad else "all as their manifests say"
    yield f"{read}: {told}"


def _damage(damaged: Mapping[str, Mapping[str, Any]]) -> OdkdError | None:
    if not damaged:
        return None
    (first, about), *more = damaged.items()
    return CorruptEntryError(
        f"{first} and {plural(len(more), 'more entry')} are damaged" if more else f"{first} is damaged",
        allowed="files as the manifests describe them",
        remedy=Remedy("advice", text="the commands behind 'Next:' above, in their order" if more else about["next"]),
    )


def gc(options: argparse.Namespace) -> Result:
    """Remove what nobody needs, or only say what that is."""
    home, store = open_store(options)
    garbage, left = find_garbage(store, _used(home), min_age_seconds=options.min_age * 3600, tell=log.info)
    for entry_id, reason in left.items():
        log.info("%s is left alone: %s", entry_id, reason)
    gone, error = (garbage, None) if options.dry_run else _remove(home, store, garbage)
    size = sum(item.size for item in gone)
    kept = _kept(home, store)
    names = {"entry": "entry_id", "what": "what", "size": "size", "age_seconds": "age_seconds"}
    data = {
        "dry_run": options.dry_run,
        "removed": [{name: getattr(item, field) for name, field in names.items()} for item in gone],
        "bytes": size,
        "left": left,
        "unfinished": kept,
    }
    rows = [(item.entry_id, item.what, size_text(item.size), age_text(item.age_seconds)) for item in gone]
    shown = [table(("entry", "what", "size", "age"), rows, right=("size", "age")), ""] if rows else []
    total = f"{size_text(size)} {'to be freed' if options.dry_run else 'freed'} in {store.root}"
    return Result(data, "\n".join([*shown, *map(_kept_told, kept), total]), error)


def _kept(home: StorePath, store: Store) -> list[dict[str, Any]]:
    """The runs that are not finished: who may be at each, and what each keeps that no finished run needs."""
    runs = [run for experiment in experiments(home) for run in experiment.runs]
    finished = frozenset().union(*(run.entry_ids for run in runs if run.notes is None))
    return [
        {
            "experiment": run.experiment,
            "notes": str(run.notes),
            "process": run.holder,
            "keeps": sorted(entry_id for entry_id in run.entry_ids - finished if (store.root / entry_id).is_dir()),
        }
        for run in runs
        if run.notes is not None
    ]


def _kept_told(kept: Mapping[str, Any]) -> str:
    what = f"keeps {plural(len(kept['keeps']), 'entry')} that no finished run needs"
    drop = parse_path(kept["notes"]).removal_command()
    if kept["process"]:
        return f"A run of '{kept['experiment']}' by {kept['process']} {what}; if that process is dead and not to go on: {drop}"
    return f"A run of '{kept['experiment']}' that did not end {what}, until it is run again with its settings; or: {drop}"


def _remove(home: StorePath, store: Store, garbage: Sequence[Garbage]) -> tuple[list[Garbage], OdkdError | None]:
    """What was removed, and the error that ended it, if one did."""
    gone: list[Garbage] = []
    for item in garbage:
        # What is used is looked up again each time: a run may have begun since.
        def is_used(entry_id: str = item.entry_id) -> bool:
            return entry_id in _used(home)

        try:
            if remove(store, item, is_used):
                gone.append(item)
        except OdkdError as error:
            return gone, error
    return gone, None


def _used(home: StorePath) -> frozenset[str]:
    """The places that experiments refer to.

    Raises:
        StoreError: of one this cannot be told, so that nothing is known to be unused.
    """
    found = experiments(home)
    for experiment in found:
        if experiment.problem:
            folder = home / "runs" / experiment.name
            spoilt = experiment.spoilt or folder
            raise StoreError(
                f"What experiment '{experiment.name}' needs is not known: {experiment.problem}",
                allowed="experiments of which it is known, since what they need is not removed; "
                + (
                    "if that run is not wanted, none"
                    if spoilt != folder
                    else f"if it is not wanted, none: {spoilt.removal_command()}"
                ),
                remedy=experiment_remedy(home, experiment),
            )
    return frozenset().union(*(experiment.entry_ids for experiment in found))
