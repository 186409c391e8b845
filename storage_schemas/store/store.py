"""The store: entries found by key, made in drafts, committed by a manifest that is written last, and verified by hash.

``<store>/<kind>/<key>/manifest.json`` names the attempt folder beside it whose files count. Every writer has a folder of its
own, and a lease beside it, so that two writers of one entry never touch each other's files; the manifest is created
exclusively, and the first wins. A draft is a set of parts (a block of rows, an epoch's checkpoint). A part is finished when
its marker is written; the next writer adopts the finished parts of one that died. An attempt folder is removed only when
another's manifest is there and nobody can be at work in it, so that a writer wrongly held for dead loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from storage_schemas.errors import KINDS, CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.draft import Draft
from storage_schemas.store.entry import Entry, read_entry, set_aside
from storage_schemas.store.lease import Lease
from storage_schemas.store.listings import Listings
from storage_schemas.store.manifest import MANIFEST, Manifest
from storage_schemas.store.recipe import Recipe, as_json, differing_fields, is_key, key_of
from storage_schemas.store.writers import Attempts, lease_of

__all__ = ["Draft", "Entry", "Store", "read_entry"]

log = logging.getLogger(__name__)


@contextmanager
def _told_if_taken_over(draft: Draft) -> Iterator[None]:
    """Errors of work whose folder was removed under it, whatever they are, become the one that says so."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreError) or not draft.was_taken_over:
            raise
        raise draft.taken_over() from error


def _homes_of(kind: StorePath) -> list[StorePath]:
    folders, files = kind.children()
    strays = [error for path in files if is_key(path.name) and (error := path.not_a_folder())]
    if strays:
        raise strays[0]
    return folders


@dataclass(frozen=True)
class Store:
    """All entries of one home, below ``root``; and those of a store ``upstream``, which is only read."""

    root: StorePath
    upstream: Store | None = None
    forced: set[str] = field(default_factory=set, compare=False)
    """Places (``kind/key``) that are not looked for upstream, since they are to be made here."""
    _replaced: dict[str, StorePath] = field(default_factory=dict, compare=False, repr=False)
    """By place the folder of the entry that counts as not there, until another is committed in its stead."""
    _listings: Listings = field(default_factory=Listings, compare=False, repr=False)
    _warned: set[str] = field(default_factory=set, compare=False, repr=False)
    _seen: dict[str, list[Entry]] = field(default_factory=dict, compare=False, repr=False)

    def find(self, kind: str, recipe: Recipe) -> Entry | None:
        """The committed entry of this recipe, or None; one whose manifest is damaged counts as not there, and is logged.

        It is looked for here and then upstream. Of a bucket the answer may be that of some seconds ago: work may be begun
        that another has just finished, which ``draft`` finds out.

        Raises:
            StoreError: its manifest cannot be read, and may be whole; or something is where a folder of the store belongs.
        """
        key = key_of(kind, recipe)
        found = self._find(kind, key) if self._listings.may_hold(self.root / kind, key) else None
        return found or self._find_upstream(kind, key, recipe)

    def _find_upstream(self, kind: str, key: str, recipe: Recipe) -> Entry | None:
        if self.upstream is None or f"{kind}/{key}" in self.forced:
            return None
        entry = self.upstream.find(kind, recipe)
        return entry and replace(entry, is_borrowed=True)

    def _find(self, kind: str, key: str) -> Entry | None:
        """Here, and at this moment; the errors are those of ``find``."""
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
                allowed="manifests that this user may read; the entry may be whole, so none is made in its place",
                remedy=Remedy("verify", entry_id=f"{kind}/{key}", home=str(self.root.parent)),
            ) from error

    def _warn(self, text: str) -> None:
        """Once: every step of a plan looks at every entry."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def homes(self) -> list[StorePath]:
        """The folders of all entries, finished or not; of this store alone.

        Raises:
            StoreError: a file or a link that leads nowhere is where the folder of a kind or of an entry belongs.
        """
        folders, files = self.root.children()
        kinds = [*folders, *(path for path in files if path.name in KINDS)]
        return [home for kind in kinds for home in _homes_of(kind)]

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every committed entry of a kind, of this store alone.

        Raises:
            StoreError: as ``homes``.
        """
        yield from filter(None, self.root.map(self._readable, _homes_of(self.root / kind)))

    def _readable(self, home: StorePath) -> Entry | None:
        """The entry, or None if it is not finished (or gone since it was listed), or cannot be used, which is logged."""
        try:
            return read_entry(home)
        except FileNotFoundError:
            return None
        except (CorruptEntryError, StoreError) as error:
            self._warn(str(error))
            return None
        except OSError as error:
            self._warn(f"{home / MANIFEST} cannot be read ({error.strerror or error})")
            return None

    def nearest(
        self, kind: str, recipe: Recipe, *, same: Sequence[str] = (), others: Collection[str] = ()
    ) -> tuple[Entry, list[tuple[str, object, object]]] | None:
        """The entry of this kind whose recipe differs in the fewest fields, with those fields; None if there is none.

        In the fields ``same`` it may not differ, which either may lack; and it is none of those at the places ``others``.
        """
        wanted = as_json(recipe)
        if self.root.listing_seconds and kind not in self._seen:
            # A plan asks for each of its steps, and a bucket is far away.
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
        # Among equals the newest: it is what the user has just been working with.
        ranked.sort(key=lambda pair: pair[1].manifest.made.get("at", ""), reverse=True)
        fields, entry = min(ranked, key=lambda pair: len(pair[0]))
        return entry, fields

    @contextmanager
    def draft(
        self, kind: str, recipe: Recipe, *, adopt: bool = True, tell: Callable[[str], None] = log.info
    ) -> Iterator[Draft | Entry]:
        """Begin an entry: a draft that holds the lease and, with ``adopt``, whatever a dead writer had finished.

        If a live writer is at it already, wait for that one; the result is then its entry. ``tell`` says so to the user.

        Raises:
            RuntimeError: this process has begun the same entry and not ended it.
            StoreError: another run took the work over meanwhile; or as ``find``.
        """
        key = key_of(kind, recipe)
        home = self.root / kind / key
        home.make_folders()
        attempts = Attempts(home)
        while True:
            attempts.wait(f"{kind}/{key}", tell, is_there=lambda: self._find(kind, key) is not None)
            found = self._find(kind, key) or self._find_upstream(kind, key, recipe)
            if found:
                # Another's, perhaps: who asks for it next must not be told what was known before it was there.
                self._listings.forget(self.root / kind)
                yield found
                return
            replaces = self._replaced.get(f"{kind}/{key}")
            draft = Draft(home, kind, recipe, replaces=replaces)
            with Lease(lease_of(draft.folder)):
                # Of two that begin at the same time the older one goes on, unless the other has begun already.
                if any(
                    other.name < draft.folder.name or (other != draft.folder and other.is_dir()) for other in attempts.living()
                ):
                    continue
                # A writer that has ended since may have committed: only without its manifest is its folder free.
                dead = [folder for folder in attempts.dead() if folder != replaces]
                if self._find(kind, key) is None:
                    self._begin(draft, dead if adopt else [], tell)
                    self._listings.forget(self.root / kind)
                    with _told_if_taken_over(draft):
                        yield draft
                    return

    @staticmethod
    def _begin(draft: Draft, dead: Sequence[StorePath], tell: Callable[[str], None]) -> None:
        manifest = draft.folder.with_name(MANIFEST)
        if manifest.exists() and not draft.stands_to_be_replaced():
            # It cannot be read, and must not keep the new one from being created; it is kept for whoever looks.
            set_aside(manifest)
        draft.folder.make_folder()
        adopted = sum(draft.adopt(other) for other in dead if other != draft.folder)
        if adopted:
            tell(f"{draft.kind}/{draft.key}: going on from {adopted} finished parts of an earlier run")

    def replace(self, entry: Entry) -> None:
        """Have an entry made again: it counts as not there from now on, and goes when another is committed in its place.

        Until then it stays for everybody else, and for the next run if this one comes to nothing.
        """
        # One upstream would be found, and not made again.
        self.forced.add(entry.entry_id)
        if not entry.is_borrowed:
            self._replaced[entry.entry_id] = entry.folder

    def discard(self, entry: Entry, *, is_needed: Callable[[], bool] = lambda: False) -> bool:
        """Take an entry out of the store: the manifest first, so that nothing half removed is ever found.

        ``is_needed`` is asked when nobody finds the entry any more: whoever notes that it is needed, and looks for it after
        that, is seen here, or does not find it. The manifest is put back then.

        Returns:
            Whether it went.

        Raises:
            OSError: this user may not remove it.
        """
        current = self._find(entry.manifest.kind, entry.key)
        # Another run may have discarded it before us, and made it again: that one stays.
        if current is not None and (current.folder != entry.folder or not self._take_manifest(entry, is_needed)):
            return False
        entry.folder.remove_tree()
        return True

    def _take_manifest(self, entry: Entry, is_needed: Callable[[], bool]) -> bool:
        """Take the manifest away, unless the entry is needed or is another meanwhile; whether it went."""
        manifest = self.root / entry.entry_id / MANIFEST
        try:
            aside = set_aside(manifest)
        except FileNotFoundError:
            # Another run was quicker.
            return True
        stays = True
        try:
            found = Manifest.decode(aside.read_bytes(), where=str(aside))
            stays = found.folder != entry.manifest.folder or is_needed()
        finally:
            if stays:
                # Whoever has missed it, and has made another, was first.
                with suppress(FileExistsError):
                    manifest.write_atomic(aside.read_bytes(), exclusive=True)
            aside.unlink(missing_ok=True)
        manifest.parent.sync_folder()
        return not stays
