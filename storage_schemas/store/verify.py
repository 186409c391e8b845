"""Verify entries: size and sha256 of every file, and files that no manifest names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from storage_schemas.errors import OdkdError, SchemaVersionError, UnreadableEntryError
from storage_schemas.store.inventory import Inventory
from storage_schemas.store.store import Entry

__all__ = ["Verdict", "verify"]


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


def verify(inventory: Inventory, *, advance: Callable[[], None]) -> Verdict:
    """Read every file of the inventory's entries, and call ``advance`` after each.

    An unusable manifest counts as damage of its entry.
    """
    others = [entry_id for entry_id, error in inventory.unreadable.items() if isinstance(error, SchemaVersionError)]
    damaged = {entry_id: [error.seen] for entry_id, error in inventory.unreadable.items() if entry_id not in others}
    unreadable = {entry_id for entry_id, error in inventory.unreadable.items() if isinstance(error, UnreadableEntryError)}
    unnamed: dict[str, list[str]] = {}
    for entry in inventory.entries.values():
        problems = entry.damaged(advance)
        # Not if the entry was deleted or rebuilt while its files were read.
        if problems and _is_in_store(entry):
            damaged[entry.entry_id] = [f"{name} {problem}" for name, problem in problems.items()]
            if any(problem.kind == "unreadable" for problem in problems.values()):
                unreadable.add(entry.entry_id)
        # Files that no manifest names: a killed writer or a user left them.
        if files := sorted(entry.folder.files_below().keys() - set(entry.manifest.files)):
            unnamed[entry.entry_id] = files
    return Verdict(list(inventory.entries.values()), damaged, unreadable, others, unnamed)


def _is_in_store(entry: Entry) -> bool:
    try:
        return entry.is_in_store()
    except (OSError, OdkdError):
        # Its manifest cannot be read any more: that is no reason to hide the damage.
        return True
