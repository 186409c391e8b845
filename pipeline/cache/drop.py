"""``drop``: delete entries, and print how to rebuild them and what was made from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.cache.advice import command
from pipeline.cache.entries import Result, Users, open_store, until_error
from pipeline.home import upstream_if_there
from stages.humanize import plural, size_text
from storage_schemas.errors import Remedy, StoreError
from storage_schemas.store.gc import garbage_at, remove
from storage_schemas.store.inventory import Inventory, find_entry_id, take_inventory

__all__ = ["drop"]


def drop(options: argparse.Namespace) -> Result:
    """Delete entries, even with damaged manifests or of another schema version; none if one of them is refused."""
    home, store = open_store(options)
    # Only for suggested commands: an unreachable upstream must not block the deletion.
    upstream = upstream_if_there(options.upstream, home)
    entry_ids = list(dict.fromkeys(find_entry_id(store, key) for key in options.keys))
    found = {entry_id: garbage_at(store, entry_id) for entry_id in entry_ids}
    users = Users.of(home)
    for entry_id in entry_ids:
        _is_used(users, entry_id, options.used)
    inventory = take_inventory(store)

    def work(entry_id: str) -> bool:
        # Read the experiments again for each item: a run may have started since.
        if all(remove(store, item, lambda: _is_used(Users.of(home), entry_id, options.used)) for item in found[entry_id]):
            return True
        seen = f"{entry_id} stays: a run writes it, or has rebuilt it"
        raise StoreError(seen, allowed="an entry that no run is making", remedy=Remedy("repeat"))

    gone, error = (entry_ids, None) if options.dry_run else until_error(entry_ids, work)
    facts = list[dict[str, Any]]()
    for entry_id in gone:
        entry = inventory.entries.get(entry_id)
        rebuild = replace(entry.remake(), force=False) if entry else Remedy("run", entry_id=entry_id)
        facts.append(
            {
                "entry": entry_id,
                "bytes": sum(item.size for item in found[entry_id]),
                "experiments": users.names(entry_id),
                "next": command(users.completed(rebuild, entry_id, upstream)),
                "made_from_it": sorted(_made_from(inventory, entry_id).difference(gone)),
            }
        )
    size = sum(about["bytes"] for about in facts)
    total = f"{plural(len(gone), 'entry')}, {size_text(size)} {'to be dropped' if options.dry_run else 'dropped'}"
    return Result({"dry_run": options.dry_run, "dropped": facts, "bytes": size}, "\n".join([*map(_text, facts), total]), error)


def _is_used(users: Users, entry_id: str, allowed: bool) -> bool:
    """False; raise ``StoreError`` if an experiment uses the entry, or may use it, and that is not ``allowed``."""
    names = users.names(entry_id)
    if allowed or not (names or users.unknown):
        return False
    seen = f"{entry_id} is used by {', '.join(names)}"
    if not names:
        unknown = users.unknown[0]
        seen = f"{entry_id} may be used by {unknown.name}, whose entries are unknown: {unknown.problem}"
    raise StoreError(
        seen,
        allowed="entries that no experiment uses; with --used others too, which will have to be rebuilt",
        remedy=replace(users.drop(entry_id, dry_run=True), used=True),
    )


def _made_from(inventory: Inventory, entry_id: str) -> set[str]:
    """The ids of the entries whose recipe names the entry, or another one of these."""
    sources = {other: inventory.made_from(entry).keys() for other, entry in inventory.entries.items()}
    found = {entry_id}
    while more := {other for other, names in sources.items() if names & found} - found:
        found |= more
    return found - {entry_id}


def _text(facts: Mapping[str, Any]) -> str:
    who = f", used by {', '.join(facts['experiments'])}" if facts["experiments"] else ""
    lines = [f"{facts['entry']}: {size_text(facts['bytes'])}{who}", f"  Rebuild: {facts['next']}"]
    if facts["made_from_it"]:
        # A rebuild on another device may give other bits under the same key.
        lines.append("  Made from it and kept; drop these too if they must match the rebuilt one:")
        lines += [f"    {other}" for other in facts["made_from_it"]]
    return "\n".join(lines)
