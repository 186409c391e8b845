"""``drop``: delete entries, and print how to rebuild them and what was made from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.lookup import Result, open_store, until_error
from pipeline.cache.users import Users
from pipeline.home import upstream_if_there
from stages.humanize import plural, size_text
from storage_schemas.errors import CorruptEntryError, Remedy, StoreError, UnreadableEntryError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.gc import Garbage, garbage_at, remove
from storage_schemas.store.inventory import Inventory, find_entry_id, take_inventory
from storage_schemas.store.store import Store

__all__ = ["drop"]

_WRITABLE = "a store that this user may read and write, and where no run is at work on that entry"


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
    found = {entry_id: _garbage_at(home, store, entry_id) for entry_id in entry_ids}
    users = Users.of(home)
    for entry_id in entry_ids:
        _is_used(users, entry_id, allowed=options.used)
    inventory = take_inventory(store)

    def work(entry_id: str) -> bool:
        # Read the experiments again for each item: a run may have started since.
        def is_used() -> bool:
            return not options.used and _is_used(Users.of(home), entry_id, allowed=False)

        if all(remove(store, item, is_used) for item in found[entry_id]):
            return True
        raise StoreError(f"{entry_id} stays: a run writes it, or has rebuilt it", allowed=_WRITABLE, remedy=Remedy("repeat"))

    gone, error = (entry_ids, None) if options.dry_run else until_error(entry_ids, work)
    facts = []
    for entry_id in gone:
        entry = inventory.entries.get(entry_id)
        stage = entry and entry.manifest.made.get("stage")
        rebuild = replace(users.run(entry_id, upstream), kind=entry_id.partition("/")[0], stage=stage or "")
        about = {
            "entry": entry_id,
            "bytes": sum(item.size for item in found[entry_id]),
            "experiments": users.names(entry_id),
            "next": command(rebuild),
            "made_from_it": [other for other in _made_from(inventory, entry_id) if other not in gone],
        }
        facts.append(about)
    size = sum(item.size for entry_id in gone for item in found[entry_id])
    total = f"{plural(len(gone), 'entry')}, {size_text(size)} {'to be dropped' if options.dry_run else 'dropped'}"
    return Result({"dry_run": options.dry_run, "dropped": facts, "bytes": size}, "\n".join([*map(_text, facts), total]), error)


def _garbage_at(home: StorePath, store: Store, entry_id: str) -> list[Garbage]:
    try:
        return garbage_at(store, entry_id)
    except UnreadableEntryError as error:
        remedy = Remedy("verify", entry_id=entry_id, home=str(home))
        raise CorruptEntryError(error.seen, allowed=_WRITABLE, remedy=remedy) from error


def _is_used(users: Users, entry_id: str, allowed: bool) -> bool:
    """False; raise ``StoreError`` if an experiment uses the entry, or may use it, and that is not ``allowed``."""
    if allowed or not (users.unknown or entry_id in users.runs):
        return False
    if entry_id in users.runs:
        seen = f"{entry_id} is used by {', '.join(users.names(entry_id))}"
    else:
        unknown = users.unknown[0]
        seen = f"{entry_id} may be used by {unknown.name}, whose entries are unknown: {unknown.problem}"
    raise StoreError(
        seen,
        allowed="entries that no experiment uses; with --used others too, which will have to be rebuilt",
        remedy=replace(users.drop(entry_id, dry_run=True), used=True),
    )


def _made_from(inventory: Inventory, entry_id: str) -> list[str]:
    """The ids of the entries whose recipe names the entry, or another one of these."""
    sources = {other: inventory.made_from(entry).keys() for other, entry in inventory.entries.items()}
    found: dict[str, None] = {}
    waiting = [entry_id]
    while waiting:
        source = waiting.pop()
        more = [other for other, names in sources.items() if source in names and other not in found]
        found |= dict.fromkeys(more)
        waiting += more
    return sorted(found)


def _text(facts: Mapping[str, Any]) -> str:
    who = f", used by {', '.join(facts['experiments'])}" if facts["experiments"] else ""
    lines = [f"{facts['entry']}: {size_text(facts['bytes'])}{who}", f"  Rebuild: {facts['next']}"]
    if facts["made_from_it"]:
        # A rebuild on another device may give other bits under the same key.
        lines.append("  Made from it and kept; drop these too if they must match the rebuilt one:")
        lines += [f"    {other}" for other in facts["made_from_it"]]
    return "\n".join(lines)
