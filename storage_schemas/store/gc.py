"""What nobody needs any more: entries that no experiment refers to, and what writers that died left behind.

Nothing goes where a living writer is at work, nothing younger than an age that the user gives, and nothing that an experiment
refers to. The age is that of the files here and not of the work: an entry may come from elsewhere. A writer on another machine
is judged as the store judges it, by whether its lease changes, which takes a minute to see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from storage_schemas.errors import CorruptEntryError, Remedy, SchemaVersionError, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.entry import ASIDE, Entry, read_entry, set_aside
from storage_schemas.store.lease import EXPIRE_SECONDS
from storage_schemas.store.manifest import MANIFEST, Manifest
from storage_schemas.store.store import Store
from storage_schemas.store.writers import Attempts, lease_of

__all__ = ["Garbage", "find_garbage", "remove", "wreck_at"]

_POLL_SECONDS = 1.0

What = Literal["entry", "unfinished work", "lease", "damaged manifest", "partial file"]


@dataclass(frozen=True)
class Garbage:
    """Something at a place (``kind/key``) that may go, and the bytes that it frees."""

    entry_id: str
    what: What
    paths: tuple[StorePath, ...]
    """In the order in which they are removed."""
    size: int
    age_seconds: float
    if_unused: bool
    """Whether it goes only as long as no experiment refers to the place."""
    attempts: Attempts = field(repr=False, compare=False)
    """The writers at the place, watched since it was looked at."""


def find_garbage(
    store: Store, used: Collection[str], *, min_age_seconds: float, tell: Callable[[str], None]
) -> tuple[list[Garbage], dict[str, str]]:
    """What may go, and the places that were left alone although not all is well there, each with the reason.

    ``used`` are the places that experiments refer to.

    Raises:
        StoreError: a file is where a folder of the store belongs.
    """
    now = time.time()
    homes, left = _lookable(store)
    # A lease that has changed within the time in which one expires is that of a living writer, and needs no watching.
    busy = _busy(homes, now - max(min_age_seconds, EXPIRE_SECONDS), tell)
    garbage: list[Garbage] = []
    for home, attempts in homes.items():
        entry_id = f"{home.parent.name}/{home.name}"
        reason = busy.get(home)
        if reason is None:
            entry, reason = _entry_of(home, is_used=entry_id in used)
        if reason:
            left[entry_id] = reason
        else:
            found = _garbage_of(home, attempts, entry, now=now, is_used=entry_id in used)
            garbage += [item for item in found if item.paths and item.age_seconds >= min_age_seconds]
    return garbage, left


def _lookable(store: Store) -> tuple[dict[StorePath, Attempts], dict[str, str]]:
    """The writers at each place, and the places that this user may not look into, each with the reason."""
    homes = {home: Attempts(home) for home in store.homes()}
    closed = {}
    for home, attempts in homes.items():
        try:
            attempts.living()
        except OSError as error:
            closed[home] = f"{home} cannot be read ({error.strerror or error})"
    left = {f"{home.parent.name}/{home.name}": reason for home, reason in closed.items()}
    return {home: attempts for home, attempts in homes.items() if home not in closed}, left


def wreck_at(store: Store, entry_id: str, *, tell: Callable[[str], None]) -> list[Garbage]:
    """All that lies at a place whose manifest this release cannot read, for whoever wants it to go.

    Raises:
        StoreError: a writer lives there.
    """
    home, now = store.root / entry_id, time.time()
    attempts = Attempts(home)
    busy = _busy({home: attempts}, now - EXPIRE_SECONDS, tell)
    if busy:
        raise StoreError(
            f"{entry_id} stays: {busy[home]}", allowed="entries that nobody is making", remedy=Remedy("repeat", text="later")
        )
    return [item for item in _garbage_of(home, attempts, None, now=now, is_used=False) if item.paths]


def _busy(homes: Mapping[StorePath, Attempts], changed_before: float, tell: Callable[[str], None]) -> dict[StorePath, str]:
    """Where writers live, and who they are.

    One that has not been heard of for so long that its work may go is watched until it is known to be dead.
    """
    living = {home: found for home, attempts in homes.items() if (found := attempts.living())}
    doubtful = {
        home for home, found in living.items() if all(watch.path.usage().changed < changed_before for watch in found.values())
    }
    if doubtful:
        tell(f"Watching for {EXPIRE_SECONDS:.0f} s whether the writers at {len(doubtful)} places live")
    end = time.monotonic() + EXPIRE_SECONDS + _POLL_SECONDS
    while doubtful and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        doubtful = {home for home in doubtful if homes[home].living()}
    living = {home: found for home in living if (found := homes[home].living())}
    return {home: f"{next(iter(found.values())).holder()} is making it" for home, found in living.items()}


def _entry_of(home: StorePath, *, is_used: bool) -> tuple[Entry | None, str]:
    """The entry, if there is one; and why the place is not to be touched, if it is not."""
    try:
        return read_entry(home), ""
    except FileNotFoundError:
        return None, ""
    except CorruptEntryError as error:
        # Its files may be whole, and an experiment may want them.
        return None, error.seen if is_used else ""
    except (StoreError, OSError) as error:
        return None, error.seen if isinstance(error, StoreError) else str(error)


def _garbage_of(home: StorePath, attempts: Attempts, entry: Entry | None, *, now: float, is_used: bool) -> Iterator[Garbage]:
    """All that may go at a place where nobody is at work, whatever its age."""

    def item(what: What, *paths: StorePath, if_unused: bool = False) -> Garbage:
        there = tuple(path for path in paths if path.exists() or path.is_dir())
        usages = [path.usage() for path in there]
        # An entry is as old as its manifest, which was written last.
        age = now - max((usage.changed for usage in (usages[:1] if what == "entry" else usages)), default=now)
        size = sum(usage.size for usage in usages)
        return Garbage(f"{home.parent.name}/{home.name}", what, there, size, age, if_unused, attempts)

    manifest = home / MANIFEST
    if entry is not None and not is_used:
        yield item("entry", manifest, entry.folder, if_unused=True)
    if entry is None and manifest.exists():
        yield item("damaged manifest", manifest, if_unused=True)
    for folder in attempts.dead():
        is_kept = entry is not None and folder == entry.folder
        if folder.is_dir() and not is_kept:
            # Where there is no entry yet, an experiment goes on from what was finished.
            if entry is not None or not is_used:
                yield item("unfinished work", folder, lease_of(folder), if_unused=entry is None)
        elif lease_of(folder).exists():
            yield item("lease", lease_of(folder))
    left: dict[What, tuple[str, str]] = {"damaged manifest": (ASIDE, ""), "partial file": (".", ".partial")}
    folders, files = home.children()
    for what, (beginning, end) in left.items():
        yield from (
            item(what, path) for path in (*folders, *files) if path.name.startswith(beginning) and path.name.endswith(end)
        )


def remove(store: Store, item: Garbage, is_used: Callable[[], bool]) -> bool:
    """Remove it; False if it stays, since a writer has begun there meanwhile, or an experiment refers to its place now.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        return _removed(store, item, is_used)
    except OSError as error:
        raise _stays(item, error.filename or item.paths[0], error.strerror or str(error)) from error


def _removed(store: Store, item: Garbage, is_used: Callable[[], bool]) -> bool:
    if item.attempts.living() or (item.if_unused and is_used()):
        return False
    home = store.root / item.entry_id
    try:
        entry: Entry | None = read_entry(home)
    except (FileNotFoundError, CorruptEntryError, SchemaVersionError):
        entry = None
    if item.what == "entry":
        if entry is None or entry.folder not in item.paths or not store.discard(entry, is_needed=is_used):
            return False
    else:
        # Committed since it was looked at.
        if entry is not None and {entry.folder, home / MANIFEST} & set(item.paths):
            return False
        for path in item.paths:
            if path == home / MANIFEST and _is_back(path):
                return False
            _remove(path)
    stays = [path for path in item.paths if path.exists() or path.is_dir()]
    if stays:
        raise _stays(item, stays[0], "it is still there")
    return True


def _stays(item: Garbage, path: object, why: str) -> StoreError:
    return StoreError(
        f"{item.entry_id} stays: {path} cannot be removed ({why})",
        allowed="a store that this user may write",
        remedy=Remedy("repeat", text="as a user who may write there"),
    )


def _is_back(manifest: StorePath) -> bool:
    """Take a manifest away that cannot be used; True if it is back, since it was whole: a writer has committed just then."""
    try:
        aside = set_aside(manifest)
        Manifest.decode(aside.read_bytes(), where=str(aside))
    except (CorruptEntryError, SchemaVersionError, IsADirectoryError):
        _remove(aside)
        return False
    except FileNotFoundError:
        return False
    aside.move_to(manifest)
    return True


def _remove(path: StorePath) -> None:
    if path.is_dir():
        path.remove_tree()
    else:
        path.unlink(missing_ok=True)
