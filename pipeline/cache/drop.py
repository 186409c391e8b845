"""``drop``: delete entries, and print how to rebuild them and what depends on them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.lookup import Result, drop_remedy, experiment_run, names_of, open_store, users_of
from pipeline.experiments import Run, experiments
from pipeline.home import upstream_if_there
from stages.humanize import plural, size_text
from storage_schemas.errors import (
    CorruptEntryError,
    OdkdError,
    Remedy,
    SchemaVersionError,
    StoreError,
    UnreadableEntryError,
)
from storage_schemas.paths.path import StorePath
from storage_schemas.store.gc import Garbage, garbage_at, remove
from storage_schemas.store.inventory import Inventory, find_entry, find_entry_id, take_inventory
from storage_schemas.store.store import Entry, Store

__all__ = ["drop"]

log = logging.getLogger("pipeline")

_WRITABLE = "a store that this user may read and write, and where no run is at work on that entry"
_KNOWN_BY_KEY = ("views", "targets")
"""Recipes name the others by their content: what is made in their place with other content is another input."""


def drop(options: argparse.Namespace) -> Result:
    """Delete entries, even with damaged manifests or of another schema version.

    Raises:
        StoreError: an experiment uses one of them, or may use it, and ``--used`` is not given; then none is deleted.
        CorruptEntryError: this user cannot read a manifest, which may be intact.
    """
    home, store = open_store(options)
    # Only for suggested commands: an unreachable upstream must not block the deletion.
    upstream = upstream_if_there(options.upstream, home)
    entry_ids = list(dict.fromkeys(find_entry_id(store, key) for key in options.keys))
    found = {entry_id: _found_at(home, store, entry_id) for entry_id in entry_ids}
    users = users_of(home)
    if not options.used:
        for entry_id in entry_ids:
            _refuse_if_used(home, entry_id, users.get(entry_id, ()))
    inventory = take_inventory(store)
    gone, error = (entry_ids, None) if options.dry_run else _remove_all(home, store, found, used_too=options.used)
    told = [_facts(home, inventory, entry_id, found[entry_id], users, dropped=gone, upstream=upstream) for entry_id in gone]
    size = sum(facts["bytes"] for facts in told)
    total = f"{plural(len(told), 'entry')}, {size_text(size)} {'to be dropped' if options.dry_run else 'dropped'}"
    return Result({"dry_run": options.dry_run, "dropped": told, "bytes": size}, "\n".join([*map(_told, told), total]), error)


def _remove_all(
    home: StorePath, store: Store, found: Mapping[str, Entry | list[Garbage]], *, used_too: bool
) -> tuple[list[str], OdkdError | None]:
    """The ids of the deleted entries, and the error that stopped the work, if any."""
    gone: list[str] = []
    for entry_id, what in found.items():
        try:
            _remove(home, store, entry_id, what, used_too=used_too)
        except OdkdError as error:
            return gone, error
        gone.append(entry_id)
    return gone, None


def _found_at(home: StorePath, store: Store, entry_id: str) -> Entry | list[Garbage]:
    """The entry, or its files if the manifest is damaged or of another schema version."""
    try:
        return find_entry(store, entry_id)
    except SchemaVersionError:
        return garbage_at(store, entry_id, tell=log.info)
    except UnreadableEntryError as error:
        raise CorruptEntryError(
            error.seen, allowed=_WRITABLE, remedy=Remedy("verify", entry_id=entry_id, home=str(home))
        ) from error
    except CorruptEntryError:
        return garbage_at(store, entry_id, tell=log.info)


def _remove(home: StorePath, store: Store, entry_id: str, found: Entry | list[Garbage], *, used_too: bool) -> None:
    def is_used() -> bool:
        if not used_too:
            # A run may have started since.
            _refuse_if_used(home, entry_id, users_of(home).get(entry_id, ()))
        return False

    if isinstance(found, Entry):
        try:
            gone = store.discard(found, is_needed=is_used) and not found.folder.is_dir()
        except OSError as error:
            raise _stays(entry_id, f"{error.filename} cannot be removed ({error.strerror})") from error
    else:
        gone = all(remove(store, item, is_used) for item in found)
    if not gone:
        raise _stays(entry_id, "this user may not remove it, or it was made anew")


def _stays(entry_id: str, why: str) -> StoreError:
    return StoreError(
        f"{entry_id} stays: {why}", allowed=_WRITABLE, remedy=Remedy("repeat", text="as a user who may delete it, or later")
    )


def _refuse_if_used(home: StorePath, entry_id: str, runs: Sequence[Run]) -> None:
    unknown = [experiment for experiment in experiments(home) if experiment.problem]
    if runs:
        seen = f"{entry_id} is used by {', '.join(names_of(runs))}"
    elif unknown:
        seen = f"{entry_id} may be used by {unknown[0].name}, of which that is not known: {unknown[0].problem}"
    else:
        return
    raise StoreError(
        seen,
        allowed="entries that no experiment uses; with --used others too, which will have to be made again",
        remedy=Remedy("drop", entry_id=entry_id, home=str(home), used=True, dry_run=True),
    )


def _facts(
    home: StorePath,
    inventory: Inventory,
    entry_id: str,
    found: Entry | list[Garbage],
    users: Mapping[str, Sequence[Run]],
    *,
    dropped: Sequence[str],
    upstream: StorePath | None,
) -> dict[str, Any]:
    """The size of an entry, the command that rebuilds it, and the entries that depend on it.

    A student is known by the keys of its views and targets, and keys hold how bits are made, not which came out: the same
    recipe may give other bits on another device. So what is found later for a recipe was always made by that recipe, which is
    what a key promises; but it need not have been made from the very bits that lie beside it. Whoever wants that of an
    experiment drops what is named here as ``made_from_it`` too. People, teachers and students are known by their content: what
    was made from them (``needs_it``) is found again only beside the same, bit for bit.
    """
    kind, stage, size, made_from = entry_id.partition("/")[0], "", 0, []
    if isinstance(found, Entry):
        size, stage = found.manifest.size, found.manifest.made.get("stage") or ""
        made_from = [other for other in _made_from(inventory, found) if other.entry_id not in dropped]
    else:
        size = sum(item.size for item in found)
    known_by_key = kind in _KNOWN_BY_KEY
    return {
        "entry": entry_id,
        "bytes": size,
        "experiments": names_of(users.get(entry_id, ())),
        "next": command(replace(experiment_run(home, users.get(entry_id, ()), upstream), kind=kind, stage=stage)),
        "made_from_it": {
            other.entry_id: command(drop_remedy(home, other.entry_id, users.get(other.entry_id, ())))
            for other in made_from
            if known_by_key
        },
        "needs_it": [] if known_by_key else [other.entry_id for other in made_from],
    }


def _made_from(inventory: Inventory, entry: Entry) -> Iterator[Entry]:
    """What names the entry, and what names that, each once; of one that is known by its key, only what is found by keys."""
    by_content = entry.manifest.kind not in _KNOWN_BY_KEY
    sources = {entry_id: inventory.made_from(other).keys() for entry_id, other in inventory.entries.items()}
    seen, waiting = {entry.entry_id}, [entry]
    while waiting:
        source = waiting.pop()
        for entry_id, other in inventory.entries.items() if by_content or source.manifest.kind in _KNOWN_BY_KEY else ():
            if entry_id not in seen and source.entry_id in sources[entry_id]:
                seen.add(entry_id)
                waiting.append(other)
                yield other


def _told(facts: Mapping[str, Any]) -> str:
    who = f", used by {', '.join(facts['experiments'])}" if facts["experiments"] else ""
    lines = [f"{facts['entry']}: {size_text(facts['bytes'])}{who}", f"  Made again by: {facts['next']}"]
    if facts["made_from_it"]:
        lines.append("  Made from it, and found by its key as before, although what is made in its place may have other bits:")
        lines += [f"    {entry_id}   (to make it again too: {command})" for entry_id, command in facts["made_from_it"].items()]
    if more := facts["needs_it"]:
        lines.append(f"  Made from it, and found again only if what is made in its place is the same: {', '.join(more)}")
    return "\n".join(lines)
