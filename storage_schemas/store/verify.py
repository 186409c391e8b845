"""Verify entries: size and sha256 of every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage_schemas.errors import CorruptEntryError, UnreadableEntryError
from storage_schemas.store.inventory import Inventory
from storage_schemas.store.store import Entry

__all__ = ["Damage", "damage_of_manifest", "verify"]


@dataclass(frozen=True)
class Damage:
    """What is wrong with an entry: a line for each file, or one for a manifest that cannot be used."""

    problems: Sequence[str]
    is_unreadable: bool
    """True if a file or the manifest cannot be read and may still be intact."""
    entry: Entry | None = None
    """None if the manifest cannot be used."""


def damage_of_manifest(error: CorruptEntryError) -> Damage:
    """The damage of an entry from the error of its manifest."""
    return Damage([error.seen], isinstance(error, UnreadableEntryError))


def verify(inventory: Inventory, *, advance: Callable[[], None]) -> dict[str, Damage]:
    """Read every file of the inventory's entries, and call ``advance`` after each; returns the damage by entry id.

    Entries of other schema versions are skipped.
    """
    damaged = {
        entry_id: damage_of_manifest(error)
        for entry_id, error in inventory.unreadable.items()
        if isinstance(error, CorruptEntryError)
    }
    for entry_id, entry in inventory.entries.items():
        problems = entry.damaged(advance)
        # Not if the entry was deleted or rebuilt while its files were read.
        if problems and entry.is_in_store():
            lines = [f"{name} {problem}" for name, problem in problems.items()]
            damaged[entry_id] = Damage(lines, any(problem.kind == "unreadable" for problem in problems.values()), entry)
    return damaged
