"""``verify`` and ``gc``: whether entries are whole, and which of them may go."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.cache.advice import Answer, known_by, maker_of, mend_of, opened, rank, removal_of, use_of, users_of
from pipeline.experiments import Run, experiments
from pipeline.home import beneath_if_there, beneath_of
from pipeline.text import age_text, plural, printable, size_text, table
from storage_schemas.errors import (
    CorruptEntryError,
    MissingInputError,
    OdkdError,
    SchemaVersionError,
    StoreError,
    cache_command,
    make_again,
)
from storage_schemas.paths.path import Place, place_of
from storage_schemas.store.gc import Garbage, find_garbage, remove
from storage_schemas.store.inventory import Inventory, Unreadable, find_place, held, take_inventory
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import Verdict

__all__ = ["gc", "verify"]

log = logging.getLogger("pipeline")


def verify(options: argparse.Namespace) -> Answer:
    """Read every file of the entries that were named, or of all."""
    if options.sample:
        return _sampled(options)
    # It draws bars, and takes longer to import than a list takes to print.
    from stages.progress import progress
    from storage_schemas.store import verify as verification

    home, store = opened(options)
    # One that is only in the environment is asked if something is missing, and need not be within reach otherwise.
    beneath = None if options.beneath is None else beneath_of(options.beneath, home)
    wanted = {find_place(store, key) for key in options.keys}
    inventory = take_inventory(store)
    inventory = inventory.only(wanted) if wanted else inventory
    users = users_of(home)
    # Before the files are read, which may take hours that a home beneath out of reach must not cost.
    missing = {} if wanted else _missing(home, inventory, users, options.beneath)
    total = sum(len(entry.manifest.files) for entry in inventory.entries.values())
    with progress("verify", total, "files") as bar:
        verdict = verification.verify(store, inventory, advance=bar.advance)
    if verdict.damaged and beneath is None:
        beneath = beneath_if_there(None, home)
    damaged = {
        place: {
            "problems": verdict.damaged[place],
            "next": mend_of(home, place, found, verdict.damaged[place], users.get(place, []), beneath=beneath),
        }
        for place, found in _in_order(inventory)
        if place in verdict.damaged and not isinstance(found, SchemaVersionError)
    }
    if beneath and not verdict.entries and not damaged:
        log.warning("Entries of a home beneath are not read: --home %s does that", beneath)
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
    return Answer(data, "\n".join(_told(home, verdict, damaged, missing)), error)


def _in_order(inventory: Inventory) -> list[tuple[str, Entry | Unreadable]]:
    """Every place with what is there, in an order in which it can be mended: by stage, and what was made from others later."""

    def order(place: str) -> tuple[int, int, str]:
        kind = place.partition("/")[0]
        entry = inventory.entries.get(place)
        sources = [] if entry is None else [other for other in inventory.made_from(entry) if other.startswith(f"{kind}/")]
        return rank(kind), len(sources), place

    found: dict[str, Entry | Unreadable] = {**inventory.entries, **inventory.unreadable}
    return [(place, found[place]) for place in sorted(found, key=order)]


def _missing(
    home: Place, inventory: Inventory, users: Mapping[str, Sequence[Run]], option: str | None
) -> dict[str, dict[str, Any]]:
    """By experiment: the entries that its figures name and that are not here, nor in the home beneath, and what makes them."""
    lacking = {
        place: ended
        for place, runs in users.items()
        if place not in inventory.entries
        and place not in inventory.unreadable
        and (ended := [run for run in runs if run.notes is None])
    }
    beneath = beneath_of(option, home) if lacking else None
    there = held(Store(beneath / "store"), list(lacking)) if beneath else set()
    found: dict[str, dict[str, Any]] = {}
    # The first of an experiment is the first that can be made: the others may come with it, or be made from it.
    for place in sorted(lacking.keys() - there, key=lambda place: (rank(place.partition("/")[0]), place)):
        for run in lacking[place]:
            again = make_again(place.partition("/")[0], maker_of(home, [run], beneath), force=False)
            about = found.setdefault(run.experiment, {"entries": [], "next": again})
            about["entries"].append(place)
    return found


def _sampled(options: argparse.Namespace) -> Answer:
    # Torch and Ray take seconds to import.
    from pipeline.cache.repair import sampled

    home, store = opened(options)
    # Where an entry is used, there are settings that say where its images are.
    used = users_of(home)
    wanted = [find_place(store, key) for key in options.keys]
    if not wanted:
        there = [entry.place for entry in store.entries("targets")]
        wanted = [place for place in there if place in used]
        if not wanted:
            raise MissingInputError(
                f"No experiment uses any of the {plural(len(there), 'entry')} of targets in {store.root}",
                allowed="targets of an experiment, whose settings say where the images are, or these as FILE",
                run=use_of(home),
            )
        if len(wanted) < len(there):
            log.warning("Not looked at, since no experiment uses them: %d of the targets", len(there) - len(wanted))
    return sampled(home, wanted, beneath=beneath_of(options.beneath, home), rows=options.sample)


def _told(
    home: Place, verdict: Verdict, damaged: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Lines: what is damaged and what mends it first, and the sum of all last."""
    for place, found in damaged.items():
        yield from (f"{place}: {printable(problem)}" for problem in found["problems"])
        yield f"  Next:    {found['next']}"
    for place, names in verdict.unnamed.items():
        yield from (f"{place}: {printable(name)} is not named by the manifest, and not used" for name in names)
    if others := verdict.other_versions:
        yield (
            f"{plural(len(others), 'entry')} of another schema version, which the release that wrote it reads, such as "
            f"{others[0]}\n  To take one away: {cache_command(f'drop {others[0]} --dry-run', home)}"
        )
    for name, found in missing.items():
        # Nothing is wrong with that: what was dropped is made again where it is needed.
        yield (
            f"Experiment '{name}' names {plural(len(found['entries']), 'entry')} of which there is none, such as "
            f"{found['entries'][0]}\n  Made again, unless --beneath HOME has it, by: {found['next']}"
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
        run="the commands behind 'Next:' above, in their order" if more else about["next"],
    )


def gc(options: argparse.Namespace) -> Answer:
    """Remove what nobody needs, or only say what that is."""
    home, store = opened(options)
    garbage, left = find_garbage(store, _used(home), min_age_seconds=options.min_age * 3600, tell=log.info)
    for place, reason in left.items():
        log.info("%s is left alone: %s", place, reason)
    gone, error = (garbage, None) if options.dry_run else _remove(home, store, garbage)
    size = sum(item.size for item in gone)
    kept = _kept(home, store)
    names = ("place", "what", "size", "age_seconds")
    data = {
        "dry_run": options.dry_run,
        "removed": [{name: getattr(item, name) for name in names} for item in gone],
        "bytes": size,
        "left": left,
        "unfinished": kept,
    }
    rows = [(item.place, item.what, size_text(item.size), age_text(item.age_seconds)) for item in gone]
    shown = [table(("place", "what", "size", "age"), rows, right=("size", "age")), ""] if rows else []
    total = f"{size_text(size)} {'to be freed' if options.dry_run else 'freed'} in {store.root}"
    return Answer(data, "\n".join([*shown, *map(_kept_told, kept), total]), error)


def _kept(home: Place, store: Store) -> list[dict[str, Any]]:
    """The runs that are not finished: who may be at each, and what each keeps that no finished run needs."""
    runs = [run for experiment in experiments(home) for run in experiment.runs]
    finished = frozenset().union(*(run.places for run in runs if run.notes is None))
    return [
        {
            "experiment": run.experiment,
            "notes": str(run.notes),
            "process": run.holder,
            "keeps": sorted(place for place in run.places - finished if (store.root / place).is_dir()),
        }
        for run in runs
        if run.notes is not None
    ]


def _kept_told(kept: Mapping[str, Any]) -> str:
    what = f"keeps {plural(len(kept['keeps']), 'entry')} that no finished run needs"
    drop = removal_of(place_of(kept["notes"]))
    if kept["process"]:
        return f"A run of '{kept['experiment']}' by {kept['process']} {what}; if that process is dead and not to go on: {drop}"
    return f"A run of '{kept['experiment']}' that did not end {what}, until it is run again with its settings; or: {drop}"


def _remove(home: Place, store: Store, garbage: Sequence[Garbage]) -> tuple[list[Garbage], OdkdError | None]:
    """What was removed, and the error that ended it, if one did."""
    gone: list[Garbage] = []
    for item in garbage:
        # What is used is looked up again each time: a run may have begun since.
        def is_used(place: str = item.place) -> bool:
            return place in _used(home)

        try:
            if remove(store, item, is_used):
                gone.append(item)
        except OdkdError as error:
            return gone, error
    return gone, None


def _used(home: Place) -> frozenset[str]:
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
                    else f"if it is not wanted, none: {removal_of(spoilt)}"
                ),
                run=known_by(home, experiment),
            )
    return frozenset().union(*(experiment.places for experiment in found))
