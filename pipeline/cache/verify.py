"""``verify``: compare the files of entries with their manifests."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.lookup import Result, open_store, order_of
from pipeline.cache.users import Users, experiment_run, run_with
from pipeline.home import upstream_if_there, upstream_of
from pipeline.text import printable
from stages.humanize import plural, size_text
from storage_schemas.errors import CorruptEntryError, MissingInputError, OdkdError, Remedy, SchemaVersionError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import Inventory, entry_ids, find_entry_id, held, take_inventory
from storage_schemas.store.store import Store
from storage_schemas.store.verify import Verdict

__all__ = ["verify"]


log = logging.getLogger("pipeline")


def verify(options: argparse.Namespace) -> Result:
    """Read every file of the named entries, or of all entries."""
    if options.sample:
        return _sampled(options)
    # The progress bar takes longer to import than a list takes to print.
    from stages.progress import progress
    from storage_schemas.store import verify as verification

    home, store = open_store(options)
    # The upstream of the environment is needed, and must be reachable, only if something is missing.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    wanted = {find_entry_id(store, key) for key in options.keys}
    inventory = take_inventory(store)
    inventory = inventory.only(wanted) if wanted else inventory
    users = Users.of(home)
    # Before the files are read, which may take hours: an unreachable upstream home is an error.
    missing = {} if wanted else _missing(inventory, users, options.upstream)
    total = sum(len(entry.manifest.files) for entry in inventory.entries.values())
    with progress("verify", total, "files") as bar:
        verdict = verification.verify(inventory, advance=bar.advance)
    if verdict.damaged and upstream is None:
        upstream = upstream_if_there(None, home)
    damaged = _damaged(inventory, users, verdict, upstream)
    if upstream and not inventory.entries:
        log.warning("verify does not read the upstream home; --home %s does that", upstream)
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
        error = inventory.unreadable[verdict.other_versions[0]]
    return Result(data, "\n".join(_lines(users, verdict, damaged, missing)), error)


def _damaged(inventory: Inventory, users: Users, verdict: Verdict, upstream: StorePath | None) -> dict[str, dict[str, Any]]:
    """The problems and the remedy of each damaged entry, in the order in which they can be repaired: inputs first."""

    def order(entry_id: str) -> tuple[int, int, str]:
        kind, entry = entry_id.partition("/")[0], inventory.entries.get(entry_id)
        return (
            order_of(kind),
            sum(other.startswith(f"{kind}/") for other in inventory.made_from(entry)) if entry else 0,
            entry_id,
        )

    found: dict[str, dict[str, Any]] = {}
    for entry_id in sorted(verdict.damaged, key=order):
        broken = inventory.entries.get(entry_id) or inventory.unreadable[entry_id]
        assert not isinstance(broken, SchemaVersionError), "an entry of another version is not verified"
        remedy = users.remedy(entry_id, broken, unreadable=entry_id in verdict.unreadable, upstream=upstream)
        found[entry_id] = {"problems": verdict.damaged[entry_id], "next": command(remedy)}
    return found


def _missing(inventory: Inventory, users: Users, option: str | None) -> dict[str, dict[str, Any]]:
    """For each experiment: the entries of its finished run that neither home has, and the command that rebuilds them."""
    known = inventory.entries.keys() | inventory.unreadable.keys()
    lacking = {entry_id for entry_id, runs in users.runs.items() if entry_id not in known and runs[0].notes is None}
    if lacking and (upstream := upstream_of(option, users.home)):
        lacking -= held(Store(upstream / "store"), list(lacking))
    found: dict[str, dict[str, Any]] = {}
    # By stage: building the first entry of an experiment may build others, which are made from it.
    for entry_id in sorted(lacking, key=lambda entry_id: (order_of(entry_id.partition("/")[0]), entry_id)):
        for run in users.runs[entry_id]:
            if run.notes is None:
                rebuild = replace(experiment_run(users.home, [run], upstream), kind=entry_id.partition("/")[0])
                found.setdefault(run.experiment, {"entries": [], "next": command(rebuild)})["entries"].append(entry_id)
    return found


def _sampled(options: argparse.Namespace) -> Result:
    # Torch and Ray take seconds to import.
    from pipeline.cache.repair import sampled

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
            remedy=replace(run_with(home, None), stage="all"),
        )
    return sampled(home, wanted, upstream=upstream_of(options.upstream, home), rows=options.sample)


def _lines(
    users: Users, verdict: Verdict, damaged: Mapping[str, Mapping[str, Any]], missing: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """The lines of the answer: damage with its remedy first, the sum last."""
    for entry_id, found in damaged.items():
        yield from (f"{entry_id}: {printable(problem)}" for problem in found["problems"])
        yield f"  Next:    {found['next']}"
    for entry_id, names in verdict.unnamed.items():
        yield from (f"{entry_id}: {printable(name)} is not named by the manifest, and not used" for name in names)
    if others := verdict.other_versions:
        yield f"{plural(len(others), 'entry')} of another schema version, such as {others[0]}"
        yield f"  To delete one: {command(users.drop(others[0], dry_run=True))}"
    for name, found in missing.items():
        # This is no damage: a run rebuilds dropped entries when it needs them.
        yield f"Experiment '{name}': {plural(len(found['entries']), 'entry')} missing, such as {found['entries'][0]}"
        yield f"  To rebuild, unless --upstream HOME has it: {found['next']}"
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
