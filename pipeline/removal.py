"""``drop``: one entry goes, so that it can be made anew; what was made from it is told, since that stays."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.answers import Answer, entry_named, maker_of, names_of, opened, users_of
from pipeline.experiments import Run, experiments
from pipeline.tables import plural, size_text
from storage_schemas.entry import Entry
from storage_schemas.errors import StoreError, cache_command, make_again
from storage_schemas.inventory import Inventory, take_inventory
from storage_schemas.places import Place

__all__ = ["drop"]

_KNOWN_BY_KEY = ("views", "targets")
"""Recipes name the others by their content: what is made in their place with other content is another input."""


def drop(options: argparse.Namespace) -> Answer:
    """Take entries out of the store.

    Raises:
        StoreError: an experiment uses one of them, or may do so, and ``--used`` was not given; then none is dropped.
    """
    home, store = opened(options)
    entries = list({entry.place: entry for entry in (entry_named(home, store, key) for key in options.keys)}.values())
    users = users_of(home)
    if not options.used:
        for entry in entries:
            _refuse_if_used(home, entry, users.get(entry.place, ()))
    inventory = take_inventory(store)
    told = [_facts(home, inventory, entry, users, dropped=entries) for entry in entries]
    if not options.dry_run:
        for entry in entries:
            store.discard(entry)
            if entry.folder.is_dir():
                raise StoreError(f"{entry.folder} cannot be removed", allowed="a store that this user may write")
    size = sum(entry.manifest.size for entry in entries)
    total = f"{plural(len(entries), 'entry')}, {size_text(size)} {'to be dropped' if options.dry_run else 'dropped'}"
    return Answer({"dry_run": options.dry_run, "dropped": told, "bytes": size}, "\n".join([*map(_told, told), total]))


def _refuse_if_used(home: Place, entry: Entry, runs: Sequence[Run]) -> None:
    unknown = [experiment for experiment in experiments(home) if experiment.problem]
    if runs:
        seen = f"{entry.place} is used by {', '.join(names_of(runs))}"
    elif unknown:
        seen = f"{entry.place} may be used by {unknown[0].name}, of which that is not known: {unknown[0].problem}"
    else:
        return
    raise StoreError(
        seen,
        allowed="entries that no experiment uses; with --used others too, which will have to be made again",
        run=cache_command(f"drop {entry.place} --used --dry-run", home),
    )


def _facts(
    home: Place, inventory: Inventory, entry: Entry, users: Mapping[str, Sequence[Run]], *, dropped: Sequence[Entry]
) -> dict[str, Any]:
    """What goes, how it is made again, and what stays although it was made from it, with how that is made again.

    A student is known by the keys of its views and targets, and keys hold how bits are made, not which came out: the same
    recipe may give other bits on another device. So what is found later for a recipe was always made by that recipe, which is
    what a key promises; but it need not have been made from the very bits that lie beside it. Whoever wants that of an
    experiment drops what is named here too.
    """
    gone = {other.place for other in dropped}
    return {
        "place": entry.place,
        "bytes": entry.manifest.size,
        "experiments": names_of(users.get(entry.place, ())),
        "next": make_again(entry.manifest.kind, maker_of(home, users.get(entry.place, ())), force=False),
        "made_from_it": {
            other.place: cache_command(f"drop {other.place}{' --used' if other.place in users else ''}", home)
            for other in _made_from(inventory, entry)
            if other.place not in gone
        },
    }


def _made_from(inventory: Inventory, entry: Entry) -> Iterator[Entry]:
    """What names the entry by its key, and what names that so, each once."""
    seen, waiting = {entry.place}, [entry]
    while waiting:
        source = waiting.pop()
        for other in inventory.entries.values() if source.manifest.kind in _KNOWN_BY_KEY else ():
            if other.place not in seen and source.place in inventory.made_from(other):
                seen.add(other.place)
                waiting.append(other)
                yield other


def _told(facts: Mapping[str, Any]) -> str:
    who = f", used by {', '.join(facts['experiments'])}" if facts["experiments"] else ""
    lines = [f"{facts['place']}: {size_text(facts['bytes'])}{who}", f"  Made again by: {facts['next']}"]
    if facts["made_from_it"]:
        lines.append("  Made from it, and found by its key as before, although what is made in its place may have other bits:")
        lines += [f"    {place}   (to make it again too: {command})" for place, command in facts["made_from_it"].items()]
    return "\n".join(lines)
