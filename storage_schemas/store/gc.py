"""Garbage collection: entries that no experiment refers to, and what dead writers left.

Nothing is deleted beside a live writer, and nothing that is younger than a given age or that an experiment refers to. The age
is that of the files here: an imported entry is as old as its import. Whether a writer on another machine lives shows in its
lease within a minute.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from storage_schemas.errors import CorruptEntryError, Remedy, SchemaVersionError, StoreError, UnreadableEntryError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.entry import ASIDE, Entry, delete, read_entry, remove_manifest
from storage_schemas.store.lease import EXPIRE_SECONDS, Writers, lease_of
from storage_schemas.store.manifest import MANIFEST
from storage_schemas.store.store import Store

__all__ = ["Garbage", "find_garbage", "garbage_at", "remove"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0

What = Literal["entry", "unfinished work", "lease", "damaged manifest", "partial file"]


@dataclass(frozen=True)
class Garbage:
    """Something of an entry id that may be deleted, and the bytes that this frees."""

    entry_id: str
    what: What
    paths: tuple[StorePath, ...]
    """In the order in which they are deleted."""
    size: int
    age_seconds: float
    if_unused: bool
    """True if it is deleted only while no experiment refers to the entry."""
    writers: Writers | None = field(repr=False, compare=False)
    """The writers of the entry, watched since the scan."""


def find_garbage(store: Store, used: Collection[str], *, min_age_seconds: float) -> tuple[list[Garbage], dict[str, str]]:
    """Everything that may be deleted, and the entry ids that were skipped, each with the reason.

    ``used`` are the entry ids that experiments refer to.

    Raises:
        StoreError: a file lies where a folder of the store belongs.
    """
    now = time.time()
    watched: dict[StorePath, Writers] = {}
    left: dict[str, str] = {}
    for entry_folder in store.entry_folders():
        writers = Writers(entry_folder)
        try:
            writers.living()
            watched[entry_folder] = writers
        except OSError as error:
            left[_entry_id(entry_folder)] = f"{entry_folder} cannot be read ({error.strerror or error})"
    # A lease that changed within the expiry time belongs to a live writer and is not watched.
    busy = _busy(watched, now - max(min_age_seconds, EXPIRE_SECONDS))
    garbage: list[Garbage] = []
    for entry_folder, writers in watched.items():
        is_used = _entry_id(entry_folder) in used
        entry, reason = (None, busy[entry_folder]) if entry_folder in busy else _entry_of(entry_folder, is_used=is_used)
        if reason:
            left[_entry_id(entry_folder)] = reason
        else:
            found = _garbage_of(entry_folder, writers, entry, now, is_used=is_used)
            garbage += [item for item in found if item.age_seconds >= min_age_seconds]
    return garbage, left


def _entry_id(entry_folder: StorePath) -> str:
    return f"{entry_folder.parent.name}/{entry_folder.name}"


def garbage_at(store: Store, entry_id: str) -> list[Garbage]:
    """What the user's wish to delete an entry deletes: the entry, or all that is left of one with an unusable manifest.

    Raises:
        UnreadableEntryError: the manifest cannot be read, and may be intact.
        StoreError: a writer of an entry with an unusable manifest lives.
    """
    entry_folder, now = store.root / entry_id, time.time()
    writers = Writers(entry_folder)
    try:
        entry = read_entry(entry_folder)
    except (CorruptEntryError, SchemaVersionError):
        if busy := _busy({entry_folder: writers}, now - EXPIRE_SECONDS):
            raise StoreError(
                f"{entry_id} stays: {busy[entry_folder]}",
                allowed="an entry without a live writer",
                remedy=Remedy("repeat", text="later"),
            ) from None
        return list(_garbage_of(entry_folder, writers, None, now, is_used=False))
    except OSError as error:
        raise UnreadableEntryError(
            f"{entry_folder / MANIFEST} cannot be read ({error.strerror})",
            allowed="a manifest that this user may read",
            remedy=Remedy("verify", entry_id=entry_id, home=str(store.root.parent)),
        ) from error
    # A writer beside a committed entry, even a live one, does not need it: it makes another one.
    found = _garbage_of(entry_folder, writers, entry, now, is_used=False)
    return [replace(item, writers=None) for item in found if item.what == "entry"]


def _busy(entry_folders: Mapping[StorePath, Writers], changed_before: float) -> dict[StorePath, str]:
    """The entry folders with live writers, and who they are.

    A lease that is old enough for its work to be deleted is watched until the writer is known to be dead.
    """
    living = {folder: found for folder, writers in entry_folders.items() if (found := writers.living())}
    doubtful = [
        folder
        for folder, found in living.items()
        if all(watch.path.usage().changed < changed_before for watch in found.values())
    ]
    if doubtful:
        log.info("Watching for %.0f s whether the writers of %d entries live", EXPIRE_SECONDS, len(doubtful))
    end = time.monotonic() + EXPIRE_SECONDS + _POLL_SECONDS
    while doubtful and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        doubtful = [folder for folder in doubtful if entry_folders[folder].living()]
    living = {folder: found for folder in living if (found := entry_folders[folder].living())}
    return {folder: f"{next(iter(found.values())).holder()} is making it" for folder, found in living.items()}


def _entry_of(entry_folder: StorePath, *, is_used: bool) -> tuple[Entry | None, str]:
    """The entry, if it exists, and the reason not to touch it, if there is one."""
    try:
        return read_entry(entry_folder), ""
    except FileNotFoundError:
        return None, ""
    except CorruptEntryError as error:
        # Its files may be intact, and an experiment needs them.
        return None, error.seen if is_used else ""
    except (StoreError, OSError) as error:
        return None, error.seen if isinstance(error, StoreError) else str(error)


def _garbage_of(
    entry_folder: StorePath, writers: Writers, entry: Entry | None, now: float, *, is_used: bool
) -> Iterator[Garbage]:
    """Everything of any age that may be deleted in an entry folder without live writers."""

    def item(what: What, *paths: StorePath, if_unused: bool = False) -> Iterator[Garbage]:
        wanted = () if if_unused and is_used else paths
        if there := tuple(path for path in wanted if path.exists() or path.is_dir()):
            usages = [path.usage() for path in there]
            # An entry is as old as its manifest, which was written last.
            age = now - max(usage.changed for usage in (usages[:1] if what == "entry" else usages))
            size = sum(usage.size for usage in usages)
            yield Garbage(_entry_id(entry_folder), what, there, size, age, if_unused, writers)

    manifest = entry_folder / MANIFEST
    if entry is not None:
        yield from item("entry", manifest, entry.folder, if_unused=True)
    else:
        yield from item("damaged manifest", manifest, if_unused=True)
    for folder in writers.dead():
        if folder.is_dir() and not (entry is not None and folder == entry.folder):
            # While the entry is missing, an experiment resumes with the finished parts.
            yield from item("unfinished work", folder, lease_of(folder), if_unused=entry is None)
        else:
            yield from item("lease", lease_of(folder))
    folders, files = entry_folder.children()
    for path in (*folders, *files):
        if what := _leftover(path.name):
            yield from item(what, path)


def _leftover(name: str) -> What | None:
    if name.startswith(ASIDE):
        return "damaged manifest"
    return "partial file" if name.startswith(".") and name.endswith(".partial") else None


def remove(store: Store, item: Garbage, is_used: Callable[[], bool]) -> bool:
    """Delete it; False if it stays because a writer has begun or an experiment refers to the entry meanwhile.

    Raises:
        StoreError: it cannot be deleted.
    """
    try:
        return _removed(store, item, is_used)
    except OSError as error:
        raise StoreError(
            f"{item.entry_id} stays: {error.filename or item.paths[0]} cannot be removed ({error.strerror or error})",
            allowed="a store that this user may write",
            remedy=Remedy("repeat", text="as a user who may write there"),
        ) from error


def _removed(store: Store, item: Garbage, is_used: Callable[[], bool]) -> bool:
    if (item.writers and item.writers.living()) or (item.if_unused and is_used()):
        return False
    entry_folder = store.root / item.entry_id
    try:
        entry: Entry | None = read_entry(entry_folder)
    except (FileNotFoundError, CorruptEntryError, SchemaVersionError):
        entry = None
    if item.what == "entry":
        if entry is None or entry.folder not in item.paths or not store.discard(entry, is_needed=is_used):
            return False
    elif entry is not None and {entry.folder, entry_folder / MANIFEST} & set(item.paths):
        # A writer has committed since the scan.
        return False
    elif item.paths[0] == entry_folder / MANIFEST:
        return remove_manifest(entry_folder, lambda found: found is not None and found.entry_id == item.entry_id)
    else:
        for path in item.paths:
            delete(path)
    if stays := [path for path in item.paths if path.exists() or path.is_dir()]:
        raise OSError(errno.EPERM, "it is still there", str(stays[0]))
    return True
