"""A committed entry: its manifest, and how its files are read, checked and repaired."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from storage_schemas.errors import REPAIRABLE, CorruptEntryError, Remedy, SchemaVersionError, StoreError
from storage_schemas.paths.facts import FileProblem, check_file
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import File, Folder, StorePath
from storage_schemas.store.manifest import MANIFEST, Manifest

__all__ = ["ASIDE", "Entry", "delete", "read_entry", "remove_manifest", "set_aside"]

ASIDE = f"{MANIFEST}.damaged-"
"""Prefix of manifests that were set aside so that readers skip them."""


@dataclass(frozen=True)
class Entry:
    """A committed entry: the manifest, and the folder that holds its files."""

    manifest: Manifest
    folder: StorePath
    is_borrowed: bool = False
    """True if it lies in the upstream store, which is only read."""

    @property
    def key(self) -> str:
        """The entry's key."""
        return self.manifest.key

    @property
    def entry_id(self) -> str:
        """``kind/key``, which is also the path below the store."""
        return self.manifest.entry_id

    @property
    def measured(self) -> dict[str, Any]:
        """What the stage measured."""
        return self.manifest.measured

    @property
    def content(self) -> str:
        """The hash by which later recipes name the entry: equal content is the same input."""
        return str(self.measured.get("content", self.manifest.payload))

    def path(self, name: str) -> LocalPath:
        """The path of one of the entry's files on this node; a file of a bucket is downloaded.

        Raises:
            CorruptEntryError: as ``file``; or an object is missing or differs from the manifest.
        """
        return self.file(name).fetch()

    def file(self, name: str) -> File:
        """One of the entry's files, for another process.

        Raises:
            CorruptEntryError: the manifest names no such file; an imported entry may be hostile.
        """
        if name not in self.manifest.files:
            raise CorruptEntryError(
                f"Entry {self.entry_id} has no file {name!r}",
                allowed=f"the files that its manifest names, such as {next(iter(self.manifest.files), 'none')}",
                remedy=self.remake(),
            )
        return (self.folder / name).file(self.manifest.files[name], self.remedy())

    def whole(self, upstream: StorePath | None = None) -> Folder:
        """The folder with all of the entry's files, for another process; ``upstream`` is as for ``remedy``."""
        return self.folder.folder(self.manifest.files, self.remedy(upstream))

    def fetch(self) -> LocalPath:
        """The folder with all of the entry's files on this node; see ``path``."""
        return self.whole().fetch()

    def damaged(self, advance: Callable[[], None] = lambda: None) -> dict[str, FileProblem]:
        """The problem of each file that differs from the manifest, by name; call ``advance`` after each file."""
        found = {}
        for name, facts in self.manifest.files.items():
            if problem := check_file(self.folder / name, facts):
                found[name] = problem
            advance()
        return found

    def is_in_store(self) -> bool:
        """True if the store's manifest names this folder, or cannot be read; the folder alone proves nothing."""
        try:
            return read_entry(self.folder.parent).folder == self.folder
        except (FileNotFoundError, CorruptEntryError):
            return False
        except (OSError, StoreError):
            return True

    def put_back(self, name: str, made: StorePath) -> bool:
        """Move the file ``made`` to where the damaged file ``name`` belongs; False, and no change, if its bytes differ.

        Only the bytes that the manifest describes are accepted, so readers never see a wrong file.

        Raises:
            FileNotFoundError: the entry was deleted meanwhile.
        """
        if check_file(made, self.manifest.files[name]):
            return False
        self.folder.clear_way(name)
        made.move_to(self.folder / name)
        return True

    def twin(self, upstream: StorePath) -> Entry | None:
        """The entry with the same files in the home ``upstream``, if it has one; its files are not checked."""
        try:
            found = read_entry(upstream / "store" / self.entry_id)
        except (OSError, CorruptEntryError, StoreError):
            return None
        return found if found.manifest.files == self.manifest.files else None

    def check(self, *, upstream: StorePath | None = None) -> None:
        """Raise ``CorruptEntryError`` naming the first damaged file, with the remedy of ``remedy``.

        In a bucket sizes are compared first; then missing files are downloaded and verified, so damage is found before the
        work begins and each object is read once.
        """
        found = self.folder.check_files(self.manifest.files)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            unreadable = [name for name, problem in found.items() if problem.kind == "unreadable"]
            name = (unreadable or list(found))[0]
            raise CorruptEntryError(
                f"Entry {self.entry_id}: {name} {found[name]}{more}",
                allowed="the files as its manifest describes them, which this user may read (verify names all)"
                + ("; or an entry of your own, in its place" if self.is_borrowed else ""),
                # An unreadable file may be intact: suggest no command that replaces it.
                remedy=Remedy("verify", entry_id=self.entry_id, home=self._home) if unreadable else self.remedy(upstream),
            )
        self.whole(upstream).fetch()

    @property
    def _home(self) -> str:
        return str(self.folder.parents[3])

    def remedy(self, upstream: StorePath | None = None) -> Remedy:
        """The remedy for damaged files; ``upstream`` is the home that is read after the entry's own."""
        if not self.is_borrowed and (self.manifest.kind in REPAIRABLE or (upstream is not None and self.twin(upstream))):
            return Remedy("repair", entry_id=self.entry_id, home=self._home, upstream=str(upstream or ""))
        return self.remake()

    def remake(self) -> Remedy:
        """The remedy that rebuilds the whole entry."""
        stage = self.manifest.made.get("stage") or ""
        return Remedy("run", kind=self.manifest.kind, entry_id=self.entry_id, stage=stage, force=True)


def read_entry(folder: StorePath) -> Entry:
    """The entry of the folder ``<store>/<kind>/<key>``.

    Raises:
        FileNotFoundError: it has no manifest.
        CorruptEntryError: the manifest is damaged, or that of another entry.
        SchemaVersionError: another schema version wrote it.
        StoreError: a file lies where a folder of the store belongs.
        OSError: the manifest cannot be read, and may be intact.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if stray := folder.not_a_folder():
            raise stray from None
        raise
    except IsADirectoryError as error:
        raise CorruptEntryError(f"{folder / MANIFEST} is a folder: the entry counts as missing") from error
    manifest = Manifest.decode(data, where=str(folder / MANIFEST))
    if (manifest.kind, manifest.key) != (folder.parent.name, folder.name):
        raise CorruptEntryError(
            f"{folder / MANIFEST} belongs to another entry, {manifest.entry_id}: the entry counts as missing"
        )
    return Entry(manifest, folder / manifest.folder)


def set_aside(manifest: StorePath) -> StorePath:
    """Rename a manifest so that its entry is not found, and return the new path.

    Raises:
        FileNotFoundError: there is no such manifest.
    """
    aside = manifest.with_name(f"{ASIDE}{uuid.uuid4().hex[:8]}")
    manifest.move_to(aside)
    return aside


def remove_manifest(folder: StorePath, stays: Callable[[Manifest | None], bool]) -> bool:
    """Delete the manifest of the folder ``<store>/<kind>/<key>``; True if there is none any more.

    ``stays`` gets the manifest, or None if it is unusable or missing, once it is set aside: from then on no reader finds the
    entry. If it returns True or raises, the manifest is put back.
    """
    manifest = folder / MANIFEST
    try:
        aside = set_aside(manifest)
    except FileNotFoundError:
        return not stays(None)
    is_kept = True
    try:
        is_kept = stays(_decoded(aside))
    finally:
        if is_kept:
            # A writer that missed it may have committed: its manifest stays.
            with suppress(FileExistsError):
                aside.link_as(manifest)
        delete(aside)
    return not is_kept


def _decoded(manifest: StorePath) -> Manifest | None:
    try:
        return Manifest.decode(manifest.read_bytes(), where=str(manifest))
    except (CorruptEntryError, SchemaVersionError, IsADirectoryError):
        return None


def delete(path: StorePath) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        path.remove_tree()
    else:
        path.unlink(missing_ok=True)
