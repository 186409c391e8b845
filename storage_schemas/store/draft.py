"""A draft: a folder of parts under a lease, which becomes an entry when the manifest is written."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from storage_schemas.errors import CorruptEntryError, Remedy
from storage_schemas.paths.facts import FileFacts, difference
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import File, Folder, StorePath
from storage_schemas.store.entry import Entry, read_entry
from storage_schemas.store.lease import LeaseWatch, lease_of
from storage_schemas.store.manifest import MANIFEST, Manifest, payload_of
from storage_schemas.store.parts import MARKER, Part, finished_parts, markers_of
from storage_schemas.store.provenance import provenance
from storage_schemas.store.recipe import Recipe, as_json, key_of

__all__ = ["Draft"]

log = logging.getLogger(__name__)


class Draft:
    """An unfinished entry in a folder of its own, under a lease; its files are written below ``work``.

    ``replaces`` is the folder of an entry that readers still find, until the commit replaces it.
    """

    def __init__(self, entry_folder: StorePath, kind: str, recipe: Recipe, *, replaces: StorePath | None = None) -> None:
        self.kind, self.recipe, self.key = kind, as_json(recipe), key_of(kind, recipe)
        self._entry_folder = entry_folder
        self.folder = entry_folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}"
        self._started = time.monotonic()
        self._replaces = replaces
        self._superseded: list[StorePath] = []
        self._ended = False

    @property
    def work(self) -> LocalPath:
        """Where this process writes and reads the files: the folder, or its mirror on this node."""
        return self.folder.mirror()

    @property
    def was_taken_over(self) -> bool:
        """True if another run took this writer for dead: the folder is gone and nothing was committed from it."""
        return not self._ended and not self.folder.is_dir()

    def finds_replaced(self) -> bool:
        """True if readers find the entry that this draft replaces."""
        try:
            return self._replaces is not None and read_entry(self._entry_folder).folder == self._replaces
        except (FileNotFoundError, CorruptEntryError):
            return False

    def parts(self) -> dict[str, Part]:
        """The finished parts by name, own and adopted ones."""
        return {part.name: part for part in finished_parts(self.folder)}

    def finished(self, *prefixes: str) -> Folder:
        """The folder with those files of finished parts whose names begin with one of ``prefixes``, for any process."""
        return self.folder.folder({name: facts for name, facts in self._marked().items() if name.startswith(prefixes)})

    def file(self, name: str) -> File:
        """A file of a finished part, or one that this process wrote, for another process."""
        return (self.folder / name).file(self._marked().get(name) or self.folder.share([name])[name])

    def _marked(self) -> dict[str, FileFacts]:
        """The facts of all files that markers name."""
        return {name: facts for part in markers_of(self.folder) for name, facts in part.files.items()}

    def adopt(self, other: StorePath) -> int:
        """Adopt the finished parts of the writer's folder ``other`` that this draft lacks, and return how many.

        They become hard links (copies in a bucket). ``other`` is deleted after the commit, if its writer has surely ended.
        """
        self._superseded.append(other)
        taken = 0
        have = {path.name for path in self.folder.children()[1]}
        for part in finished_parts(other):
            marker = f"{part.name}{MARKER}"
            taken += marker not in have and self._link(other, (*part.files, marker))
        return taken

    def _link(self, other: StorePath, names: Sequence[str]) -> bool:
        """Link all files of a part, the marker last, or none."""
        try:
            for name in names:
                target = self.folder / name
                target.parent.make_folders()
                (other / name).link_as(target)
        except FileNotFoundError:
            # Another writer has committed and deleted the folder; a half linked part shares its files with that entry.
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
            return False
        return True

    def payload(self, files: Sequence[str]) -> str:
        """The payload hash of the entry if ``files`` (names below the folder) are committed as they are."""
        return payload_of(self._facts(files))

    def _facts(self, files: Collection[str]) -> dict[str, FileFacts]:
        expected = files if isinstance(files, Mapping) else {}
        # Files of an import may have the names of markers.
        marked = {} if expected else self._marked()
        known = {name: marked[name] for name in files if name in marked}
        problems = self.folder.check_files(known)
        found = known if problems else known | self.folder.share(files, shared=known)
        differing = {name: problem for name, facts in expected.items() if (problem := difference(found[name], facts))}
        for name, problem in (problems or differing).items():
            raise CorruptEntryError(
                f"{self.folder / name} {problem}",
                allowed="the bytes that were written; a failing disk or another process has changed them",
                remedy=Remedy("repeat", text="it writes this part again"),
            )
        return found

    def commit(self, files: Collection[str], *, measured: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> Entry:
        """Write the manifest of ``files`` (names below the folder); return the other entry if another writer was first.

        A mapping of names also holds the facts that each file must have.

        Raises:
            CorruptEntryError: a file is missing, or its facts are not those expected, or those of its finished part.
        """
        if self._is_late():
            return self._give_way()
        try:
            facts = self._facts(files)
        except (FileNotFoundError, CorruptEntryError):
            if self.was_taken_over and self._is_late():
                return self._give_way()
            raise
        everything = {**provenance(), "seconds": round(time.monotonic() - self._started, 3), **(made or {})}
        manifest = Manifest(self.kind, self.key, self.recipe, self.folder.name, facts, as_json(measured), as_json(everything))
        # Overwrite the manifest that is replaced, so that readers find an entry at every moment.
        replaces = self.finds_replaced()
        try:
            (self._entry_folder / MANIFEST).write_atomic(manifest.encode(), exclusive=not replaces)
        except FileExistsError:
            return self._give_way()
        self._ended = True
        if replaces and self._replaces is not None:
            self._superseded.append(self._replaces)
        self._clean(keep=set(facts))
        return Entry(manifest, self.folder)

    def _is_late(self) -> bool:
        return (self._entry_folder / MANIFEST).exists() and not self.finds_replaced()

    def abandon(self) -> None:
        """Give up and delete the files: for work that no later run can continue."""
        self._ended = True
        self.folder.remove_tree()

    def _give_way(self) -> Entry:
        entry = read_entry(self._entry_folder)
        self._ended = True
        # It is our own if NFS or a bucket lost the first answer: the client repeated the request and the file existed.
        if entry.folder != self.folder:
            log.info("%s/%s was committed by another run meanwhile; using that entry", self.kind, self.key)
            self.folder.remove_tree()
        else:
            self._clean(keep=set(entry.manifest.files))
        return entry

    def _clean(self, keep: set[str]) -> None:
        folders: set[StorePath] = {self.folder, self.work}
        for folder in folders:
            for name in folder.files_below().keys() - keep:
                (folder / name).unlink(missing_ok=True)
        for other in self._superseded:
            # A writer on another machine may only be slow: it deletes its folder itself.
            if LeaseWatch(lease_of(other)).is_gone():
                other.remove_tree()
                lease_of(other).unlink(missing_ok=True)
