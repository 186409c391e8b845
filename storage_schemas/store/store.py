"""The store: entries are found by key, written in drafts, committed by their manifest and verified by hash.

``<store>/<kind>/<key>/manifest.json`` names the writer's folder, beside it, that holds the files. Every writer has a folder
and a lease of its own; the manifest is created exclusively, and the first writer wins. The next writer adopts the finished
parts of a dead one, whose folder is deleted only when a manifest exists and the writer has surely ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from storage_schemas.errors import KINDS, CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.draft import Draft
from storage_schemas.store.entry import Entry, read_entry, set_aside
from storage_schemas.store.lease import Lease, Writers, lease_of
from storage_schemas.store.manifest import MANIFEST, Manifest
from storage_schemas.store.recipe import Recipe, as_json, differing_fields, is_key, key_of

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
        raise draft.taken_over() from error


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
    forced: set[str] = field(default_factory=set, compare=False)
    """Entry ids that are not looked for upstream, because this run builds them here."""
    _replaced: dict[str, StorePath] = field(default_factory=dict, compare=False, repr=False)
    """By entry id the folder of an entry that this run replaces: ``find`` skips it."""
    _listed: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict, compare=False, repr=False)
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)
    _seen: dict[str, list[Entry]] = field(default_factory=dict, compare=False, repr=False)

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
        if self.upstream is None or f"{kind}/{key}" in self.forced:
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
            self._warn(str(error))
            return None
        except OSError as error:
            raise StoreError(
                f"{self.root / kind / key / MANIFEST} cannot be read ({error.strerror or error})",
                allowed="manifests that this user may read; the entry may be intact, so odkd does not rebuild it",
                remedy=Remedy("verify", entry_id=f"{kind}/{key}", home=str(self.root.parent)),
            ) from error

    def _warn(self, text: str) -> None:
        """Log a warning once: every step of a plan reads every entry."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def entry_folders(self) -> list[StorePath]:
        """The folders of all entries of this store, finished or not.

        Raises:
            StoreError: a file or a dangling link lies where the folder of a kind or an entry belongs.
        """
        folders, files = self.root.children()
        kinds = [*folders, *(path for path in files if path.name in KINDS)]
        return [folder for kind in kinds for folder in _entry_folders_of(kind)]

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every entry of a kind in this store.

        Raises:
            StoreError: as ``entry_folders``.
        """
        yield from filter(None, self.root.map(self._readable, _entry_folders_of(self.root / kind)))

    def _readable(self, folder: StorePath) -> Entry | None:
        """The entry; None if it is unfinished, was deleted meanwhile or is unusable (logged)."""
        try:
            return self._find(folder.parent.name, folder.name)
        except StoreError as error:
            self._warn(str(error))
            return None

    def nearest(
        self, kind: str, recipe: Recipe, *, same: Sequence[str] = (), others: Collection[str] = ()
    ) -> tuple[Entry, list[tuple[str, object, object]]] | None:
        """The entry of this kind whose recipe differs in the fewest fields, with these fields; None if there is no entry.

        The fields ``same`` must be equal or missing in both; the entry ids ``others`` are skipped.
        """
        wanted = as_json(recipe)
        if self.root.listing_seconds and kind not in self._seen:
            # A plan asks once a step, and listing a bucket is slow.
            self._seen[kind] = list(self.entries(kind))
        there = self._seen[kind] if kind in self._seen else self.entries(kind)
        found = [
            entry
            for entry in there
            if entry.entry_id not in others and all(entry.manifest.recipe.get(name) == wanted.get(name) for name in same)
        ]
        ranked = [(differing_fields(recipe, entry.manifest.recipe), entry) for entry in found]
        if not ranked:
            return None
        # Among equals take the newest, which the user has worked with last.
        ranked.sort(key=lambda pair: pair[1].manifest.made.get("at", ""), reverse=True)
        fields, entry = min(ranked, key=lambda pair: len(pair[0]))
        return entry, fields

    @contextmanager
    def draft(
        self, kind: str, recipe: Recipe, *, adopt: bool = True, tell: Callable[[str], None] = log.info
    ) -> Iterator[Draft | Entry]:
        """Begin an entry: yield a draft that holds the lease and, with ``adopt``, the finished parts of dead writers.

        If a live writer works on the entry, wait (``tell`` notifies the user) and yield its entry.

        Raises:
            RuntimeError: this process has begun the same entry and not ended it.
            StoreError: another run took the work over; or as ``find``.
        """
        key = key_of(kind, recipe)
        entry_folder = self.root / kind / key
        entry_folder.make_folders()
        writers = Writers(entry_folder)
        while True:
            writers.wait(f"{kind}/{key}", tell, is_there=lambda: self._find(kind, key) is not None)
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
                    self._begin(draft, dead if adopt else [], tell)
                    self._listed.pop(kind, None)
                    with _explaining_takeover(draft):
                        yield draft
                    return

    @staticmethod
    def _begin(draft: Draft, dead: Sequence[StorePath], tell: Callable[[str], None]) -> None:
        manifest = draft.folder.with_name(MANIFEST)
        if manifest.exists() and not draft.finds_replaced():
            # It is damaged and would block the new manifest; keep it under another name for the user.
            set_aside(manifest)
        draft.folder.make_folder()
        adopted = sum(draft.adopt(other) for other in dead if other != draft.folder)
        if adopted:
            tell(f"{draft.kind}/{draft.key}: resuming with {adopted} finished parts of an earlier run")

    def replace(self, entry: Entry) -> None:
        """Rebuild an entry: this store no longer finds it, and the commit of the new one replaces it.

        Until then other runs find it, and so does the next run if this one fails.
        """
        # Otherwise ``find`` would return the upstream entry.
        self.forced.add(entry.entry_id)
        if not entry.is_borrowed:
            self._replaced[entry.entry_id] = entry.folder

    def discard(self, entry: Entry, *, is_needed: Callable[[], bool] = lambda: False) -> bool:
        """Delete an entry, the manifest first, so that readers never find half an entry.

        ``is_needed`` is called once the manifest is set aside: a run notes an entry before it looks for it, so it is either
        seen here, and the manifest is put back, or it does not find the entry.

        Returns:
            True if the entry was deleted.

        Raises:
            OSError: this user may not delete it.
        """
        current = self._find(entry.manifest.kind, entry.key)
        # Another run may have deleted and rebuilt it: the new entry stays.
        if current is not None and (current.folder != entry.folder or not self._take_manifest(entry, is_needed)):
            return False
        entry.folder.remove_tree()
        return True

    def _take_manifest(self, entry: Entry, is_needed: Callable[[], bool]) -> bool:
        """Delete the manifest, unless the entry is needed or was replaced; True if it was deleted."""
        manifest = self.root / entry.entry_id / MANIFEST
        try:
            aside = set_aside(manifest)
        except FileNotFoundError:
            # Another run has deleted it.
            return True
        stays = True
        try:
            found = Manifest.decode(aside.read_bytes(), where=str(aside))
            stays = found.folder != entry.manifest.folder or is_needed()
        finally:
            if stays:
                # A writer that missed it may have committed: its manifest stays.
                with suppress(FileExistsError):
                    manifest.write_atomic(aside.read_bytes(), exclusive=True)
            aside.unlink(missing_ok=True)
        manifest.parent.sync_files([])
        return not stays
