"""The store: entries are found by key, written in drafts, committed by their manifest and verified by hash.

``<store>/<kind>/<key>/manifest.json`` names the writer's folder, beside it, that holds the files. Every writer has a folder
and a lease of its own; the manifest is created exclusively, and the first writer wins. The next writer adopts the finished
parts of a dead one, whose folder is deleted only when a manifest exists and the writer has surely ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

from storage_schemas.errors import KINDS, CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.draft import Draft
from storage_schemas.store.entry import Entry, read_entry, remove_manifest, set_aside
from storage_schemas.store.lease import Lease, Writers, lease_of
from storage_schemas.store.manifest import MANIFEST, Manifest
from storage_schemas.store.recipe import Recipe, is_key, key_of

__all__ = ["Draft", "Entry", "Store", "read_entry"]

log = logging.getLogger(__name__)


@contextmanager
def _explaining_takeover(draft: Draft) -> Iterator[None]:
    """Replace any error of work whose folder another run has deleted by the error that says so."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreError) or not draft.was_taken_over:
            raise
        raise StoreError(
            f"Another run took the work on {draft.kind}/{draft.key} over: its folder {draft.folder} is gone",
            allowed="this process showing that it lives in time; one that was stopped, or cut off from the store, does not",
            remedy=Remedy("repeat", text="it continues from what the other run has finished"),
        ) from error


@cache
def _warn(text: str) -> None:
    """Log a warning once: a plan looks for an entry several times."""
    log.warning("%s", text)


def _entry_folders_of(kind: StorePath) -> list[StorePath]:
    folders, files = kind.children()
    for path in files:
        if is_key(path.name) and (error := path.not_a_folder()):
            raise error
    return [*folders]


@dataclass(frozen=True)
class Store:
    """The entries of one home, below ``root``, and of the store ``upstream``, which is only read."""

    root: StorePath
    upstream: Store | None = None
    _replaced: dict[str, StorePath] = field(default_factory=dict, compare=False, repr=False)
    """By entry id the folder of an entry that this run replaces: ``find`` skips it, and what upstream has."""
    _watched: dict[str, Writers] = field(default_factory=dict, compare=False, repr=False)
    _listed: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict, compare=False, repr=False)

    def find(self, kind: str, recipe: Recipe) -> Entry | None:
        """The entry of this recipe, here or else upstream; None if it is missing or its manifest is damaged (logged).

        In a bucket the answer may be some seconds old; ``draft`` looks again before work begins.

        Raises:
            StoreError: the manifest cannot be read and may be intact, or a file lies where a folder of the store belongs.
        """
        key = key_of(kind, recipe)
        found = self._find(kind, key) if self._may_hold(kind, key) else None
        return found or self._find_upstream(kind, key, recipe)

    def _may_hold(self, kind: str, key: str) -> bool:
        """False if a list of the keys in the bucket, some seconds old, lacks this one; always True on a file system."""
        if not self.root.listing_seconds:
            return True
        since, keys = self._listed.get(kind, (float("-inf"), frozenset()))
        # A plan looks for thousands of missing entries: one request lists them all.
        if key not in keys and time.monotonic() - since > self.root.listing_seconds:
            keys = frozenset(path.name for path in (self.root / kind).children()[0])
            self._listed[kind] = time.monotonic(), keys
        return key in keys

    def _find_upstream(self, kind: str, key: str, recipe: Recipe) -> Entry | None:
        if self.upstream is None or f"{kind}/{key}" in self._replaced:
            return None
        entry = self.upstream.find(kind, recipe)
        return entry and replace(entry, is_borrowed=True)

    def _find(self, kind: str, key: str) -> Entry | None:
        """The entry in this store, without a cached listing; errors as ``find``."""
        try:
            found = read_entry(self.root / kind / key)
            return None if found.folder == self._replaced.get(found.entry_id) else found
        except FileNotFoundError:
            return None
        except CorruptEntryError as error:
            _warn(str(error))
            return None
        except OSError as error:
            raise StoreError(
                f"{self.root / kind / key / MANIFEST} cannot be read ({error.strerror or error})",
                allowed="manifests that this user may read; the entry may be intact, so odkd does not rebuild it",
                remedy=Remedy("verify", entry_id=f"{kind}/{key}", home=str(self.root.parent)),
            ) from error

    def entry_folders(self) -> list[StorePath]:
        """The folders of all entries of this store, finished or not.

        Raises:
            StoreError: a file or a dangling link lies where the folder of a kind or an entry belongs.
        """
        folders, files = self.root.children()
        kinds = [*folders, *(path for path in files if path.name in KINDS)]
        return [folder for kind in kinds for folder in _entry_folders_of(kind)]

    def watch(self, entry_ids: Iterable[str]) -> None:
        """Look at the leases of entries to draft soon: those of one dead run expire together, not one after another."""
        for entry_id in entry_ids:
            self._watched[entry_id] = Writers(self.root / entry_id)
            self._watched[entry_id].living()

    @contextmanager
    def draft(self, kind: str, recipe: Recipe, *, adopt: bool = True) -> Iterator[Draft | Entry]:
        """Begin an entry: yield a draft that holds the lease and, with ``adopt``, the finished parts of dead writers.

        If a live writer works on the entry, wait and yield its entry.

        Raises:
            StoreError: another run took the work over; or as ``find``.
        """
        key = key_of(kind, recipe)
        entry_folder = self.root / kind / key
        entry_folder.make_folders()
        writers = self._watched.pop(f"{kind}/{key}", None) or Writers(entry_folder)
        while True:
            writers.wait(f"{kind}/{key}", is_there=lambda: self._find(kind, key) is not None)
            found = self._find(kind, key) or self._find_upstream(kind, key, recipe)
            if found:
                # Another process may have made it: a cached listing does not know it yet.
                self._listed.pop(kind, None)
                yield found
                return
            replaces = self._replaced.get(f"{kind}/{key}")
            draft = Draft(entry_folder, kind, recipe, replaces=replaces)
            with Lease(lease_of(draft.folder)):
                # Of two writers that begin together the older folder wins, unless the other has begun already.
                if any(
                    other.name < draft.folder.name or (other != draft.folder and other.is_dir()) for other in writers.living()
                ):
                    continue
                # A writer that has just ended may have committed: adopt its folder only if there is no manifest.
                dead = [folder for folder in writers.dead() if folder != replaces]
                if self._find(kind, key) is None:
                    self._begin(draft, dead if adopt else [])
                    self._listed.pop(kind, None)
                    with _explaining_takeover(draft):
                        yield draft
                    return

    @staticmethod
    def _begin(draft: Draft, dead: Sequence[StorePath]) -> None:
        manifest = draft.folder.with_name(MANIFEST)
        if manifest.exists() and not draft.finds_replaced():
            # It is damaged and would block the new manifest; keep it under another name for the user.
            set_aside(manifest)
        draft.folder.make_folder()
        adopted = sum(draft.adopt(other) for other in dead if other != draft.folder)
        if adopted:
            log.info("%s/%s: resuming with %d finished parts of an earlier run", draft.kind, draft.key, adopted)

    def replace(self, entry: Entry) -> None:
        """Rebuild an entry: this store no longer finds it, and the commit of the new one replaces it.

        Until then other runs find it, and so does the next run if this one fails.
        """
        self._replaced[entry.entry_id] = entry.folder

    def discard(self, entry: Entry, *, is_needed: Callable[[], bool] = lambda: False) -> bool:
        """Delete an entry, the manifest first, so that readers never find half an entry; False if it stays.

        ``is_needed`` is called once the manifest is set aside: a run notes an entry before it looks for it, so it is either
        seen here, and the manifest is put back, or it does not find the entry.

        Raises:
            OSError: this user may not delete it.
        """

        def stays(found: Manifest | None) -> bool:
            # Another run may have deleted and rebuilt it: the new entry stays.
            return (found is not None and found.folder != entry.manifest.folder) or is_needed()

        is_gone = remove_manifest(self.root / entry.entry_id, stays)
        if is_gone:
            entry.folder.remove_tree()
        return is_gone
