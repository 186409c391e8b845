"""The inventory of a store: one read of all manifests, with unusable ones and what each entry was made from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from storage_schemas.errors import (
    ConfigError,
    CorruptEntryError,
    MissingInputError,
    Remedy,
    SchemaVersionError,
    UnreadableEntryError,
)
from storage_schemas.paths.path import StorePath
from storage_schemas.store.manifest import MANIFEST
from storage_schemas.store.store import Entry, Store, read_entry

__all__ = ["Inventory", "entry_ids", "find_entry", "find_entry_id", "has_manifest", "take_inventory"]

_KNOWN_BY_CONTENT = ("instances", "teachers", "students")
"""Recipes name entries of these kinds by the hash of their content; views and targets by key."""
_SHOWN = 5

Unreadable = CorruptEntryError | SchemaVersionError


@dataclass(frozen=True)
class Inventory:
    """All entries by entry id, and the errors of unusable manifests."""

    entries: Mapping[str, Entry]
    unreadable: Mapping[str, Unreadable]

    @cached_property
    def _named(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries.values():
            names = (entry.entry_id, entry.key, entry.content if entry.manifest.kind in _KNOWN_BY_CONTENT else entry.key)
            for name in dict.fromkeys(names):
                found[name].append(entry)
        return found

    def named_by(self, text: str) -> list[Entry]:
        """The entries that a text of a recipe names: by key, by content, or by entry id (in reports)."""
        return self._named.get(text, [])

    def made_from(self, entry: Entry) -> dict[str, str]:
        """The entries of this store that the recipe of ``entry`` names: by entry id, the first field that names each."""
        found: dict[str, str] = {}
        for field, text in _texts(entry.manifest.recipe):
            for other in self.named_by(text):
                found.setdefault(other.entry_id, field)
        return found


def _texts(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a recipe with the dotted name of its field; elements of a list are numbered."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, below in value.items():
            yield from _texts(below, f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _texts(below, f"{field}[{number}]")


def entry_ids(store: Store) -> list[str]:
    """The ids of all entries with a manifest, readable or not; no file is opened.

    Raises:
        StoreError: as ``Store.entry_folders``.
    """
    folders = store.entry_folders()
    there = store.root.map(has_manifest, folders)
    return sorted(f"{folder.parent.name}/{folder.name}" for folder, has in zip(folders, there, strict=True) if has)


def has_manifest(entry_folder: StorePath) -> bool:
    """True if the folder holds a manifest, readable or not."""
    try:
        return (entry_folder / MANIFEST).exists()
    except OSError:
        # The folder may hold a manifest; reading it raises the error.
        return True


def take_inventory(store: Store, only: Collection[str] = ()) -> Inventory:
    """Read every manifest, or those of the entry ids ``only``, and no other file.

    Raises:
        StoreError: as ``Store.entry_folders``.
    """
    there = [entry_id for entry_id in entry_ids(store) if not only or entry_id in only]
    found = dict(zip(there, store.root.map(lambda entry_id: _found(store, entry_id), there), strict=True))
    # The others were deleted since they were listed.
    return Inventory(
        {entry_id: entry for entry_id, entry in found.items() if isinstance(entry, Entry)},
        {entry_id: error for entry_id, error in found.items() if isinstance(error, Unreadable)},
    )


def _found(store: Store, entry_id: str) -> Entry | Unreadable | MissingInputError:
    try:
        return find_entry(store, entry_id)
    except (MissingInputError, CorruptEntryError, SchemaVersionError) as error:
        return error


def find_entry(store: Store, entry_id: str) -> Entry:
    """The entry with this id.

    Raises:
        MissingInputError: it does not exist.
        CorruptEntryError: its manifest is damaged (``UnreadableEntryError``: it cannot be read, and may be intact).
        SchemaVersionError: it has another schema version.
        StoreError: a file lies where a folder of the store belongs.
    """
    entry_folder = store.root / entry_id
    try:
        return read_entry(entry_folder)
    except FileNotFoundError as error:
        raise MissingInputError(
            f"There is no entry {entry_id} in {store.root}", remedy=Remedy("list", home=str(store.root.parent))
        ) from error
    except OSError as error:
        raise UnreadableEntryError(f"{entry_folder / MANIFEST} cannot be read ({error.strerror})") from error


def find_entry_id(store: Store, text: str, *, known: Collection[str] | None = None, upstream: Store | None = None) -> str:
    """The entry id that ``text`` means: a key or its beginning, alone or as ``kind/key``.

    ``known`` are the ids to search, by default those of ``store``; they may include ids of the store ``upstream``.

    Raises:
        ConfigError: no id matches, or several do.
    """
    roots = [str(each.root) for each in (store, upstream) if each]
    # The user may have pasted a path.
    wanted = next((text.removeprefix(f"{root}/") for root in roots if text.startswith(f"{root}/")), text).rstrip("/")
    found = _matching(entry_ids(store) if known is None else known, wanted)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"No entry in {' or '.join(roots)} has a key that begins with '{text}'",
            allowed="a key, or its beginning, alone or as kind/key",
            remedy=Remedy("list", home=str(store.root.parent)),
        )
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ConfigError(
        f"'{text}' is the beginning of {len(found)} keys: {', '.join(found[:_SHOWN])}{more}",
        allowed="so much of a key that it is the only one",
        remedy=Remedy("advice", text="the same command with one of these"),
    )


def _matching(known: Collection[str], text: str) -> list[str]:
    kind, slash, key = text.rpartition("/")
    pattern = re.compile(rf"{re.escape(kind) if slash else '[^/]+'}/{re.escape(key)}.*")
    return [entry_id for entry_id in known if text and pattern.fullmatch(entry_id)]
