"""Verify entries: size and sha256 of every file, and files that no manifest names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from storage_schemas.errors import CorruptEntryError, MissingInputError, SchemaVersionError, UnreadableEntryError
from storage_schemas.store.inventory import Inventory, find_entry
from storage_schemas.store.store import Entry, Store

__all__ = ["Verdict", "unnamed_files", "verify"]


@dataclass(frozen=True)
class Verdict:
    """The entries that were read; by entry id the problems (a line a file) and the files that the manifest does not name."""

    entries: Sequence[Entry]
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unreadable: Collection[str] = ()
    """The damaged entries with a file or manifest that cannot be read and may still be intact."""
    other_versions: Sequence[str] = ()
    """Ids of entries of other schema versions, which were not read."""
    unnamed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def num_files(self) -> int:
        """Files that the manifests name."""
        return sum(len(entry.manifest.files) for entry in self.entries)

    @property
    def size(self) -> int:
        """Bytes of these files."""
        return sum(entry.manifest.size for entry in self.entries)


def verify(store: Store, inventory: Inventory, *, advance: Callable[[], None]) -> Verdict:
    """Read every file of the inventory's entries, and call ``advance`` after each.

    An unusable manifest counts as damage of its entry.
    """
    others = [entry_id for entry_id, error in inventory.unreadable.items() if isinstance(error, SchemaVersionError)]
    damaged = {entry_id: [error.seen] for entry_id, error in inventory.unreadable.items() if entry_id not in others}
    unreadable = {entry_id for entry_id, error in inventory.unreadable.items() if isinstance(error, UnreadableEntryError)}
    unnamed: dict[str, list[str]] = {}
    for entry in inventory.entries.values():
        problems = {}
        for name, problem in entry.look():
            advance()
            if problem:
                problems[name] = problem
        if problems and _is_still_there(store, entry):
            damaged[entry.entry_id] = [f"{name} {problem}" for name, problem in problems.items()]
            if any(problem.kind == "unreadable" for problem in problems.values()):
                unreadable.add(entry.entry_id)
        if files := unnamed_files(entry):
            unnamed[entry.entry_id] = files
    return Verdict(list(inventory.entries.values()), damaged, unreadable, others, unnamed)


def _is_still_there(store: Store, entry: Entry) -> bool:
    """False if the entry was deleted or rebuilt while its files were read."""
    try:
        return find_entry(store, entry.entry_id).folder == entry.folder
    except MissingInputError:
        return False
    except (CorruptEntryError, SchemaVersionError):
        return True


def unnamed_files(entry: Entry) -> list[str]:
    """Files in the entry's folder that its manifest does not name: a killed writer or a user left them."""
    return sorted(entry.folder.files_below().keys() - set(entry.manifest.files))
