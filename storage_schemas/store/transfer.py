"""Export and import: an export is a home with just the exported entries, as a folder or as a tar file.

An import trusts nothing: it reads only plain files that manifests name, and commits an entry once each file has the size
and sha256 of its manifest.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import stat
import tarfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from storage_schemas.errors import KINDS, CorruptEntryError, Remedy, SchemaVersionError, StoreError
from storage_schemas.paths.facts import FileFacts, FileProblem, difference, facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.manifest import MANIFEST, Manifest, is_plain_name
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store

__all__ = ["Export", "Outcome", "check_target", "export_entries", "import_entry", "open_export"]

log = logging.getLogger(__name__)

Outcome = Literal["imported", "exists already", "exists already, with other bits"]

_STORE = "store"
_PART = "imported"
_OTHER_ARCHIVES = (".tgz", ".gz", ".zip", ".bz2", ".xz", ".zst")
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def check_target(target: Path) -> None:
    """Check that an export can be written to ``target``.

    Raises:
        StoreError: it exists, its folder does not, or its name is that of another kind of archive.
    """
    another_name = Remedy("advice", text="the same command with another name")
    if os.path.lexists(target):
        raise StoreError(f"{target} exists already", allowed="a new folder or .tar file", remedy=another_name)
    if not target.parent.is_dir():
        make = Remedy("shell", text=f"mkdir -p {shlex.quote(str(target.parent))}")
        raise StoreError(f"There is no folder {target.parent}", allowed=f"a folder for {target.name}", remedy=make)
    if target.suffix != ".tar" and target.suffix.lower() in (".tar", *_OTHER_ARCHIVES):
        raise StoreError(f"{target.name} would be a folder", allowed="a name that ends in .tar, or one of a folder")


def export_entries(entries: Sequence[Entry], target: Path, *, advance: Callable[[], None]) -> None:
    """Copy ``entries`` to ``target``, a folder or (if its name ends in .tar) a tar file; call ``advance`` after each file.

    Raises:
        StoreError: as ``check_target``.
        CorruptEntryError: a file does not match its manifest; then nothing is left at ``target``.
    """
    check_target(target)
    partial = LocalPath(target).with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    packed = partial.with_suffix(".tar.partial")
    try:
        names = [name for entry in entries for name in _export(entry, partial, advance)]
        if target.suffix == ".tar":
            with tarfile.open(packed, "x") as tar:
                for name in names:
                    # Without the user, the mode and the time of this machine.
                    member = tarfile.TarInfo(name)
                    member.size = (partial / name).stat().st_size
                    with (partial / name).open("rb") as content:
                        tar.addfile(member, content)
                    # The disk need not hold every file twice.
                    (partial / name).unlink()
            packed.parent.sync_files([packed.name])
            packed.rename(target)
        else:
            partial.sync_files(names)
            partial.rename(target)
        partial.parent.sync_files([])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        packed.unlink(missing_ok=True)


def _export(entry: Entry, target: LocalPath, advance: Callable[[], None]) -> Iterator[str]:
    """Copy an entry into the home ``target``, and yield the name of each file there."""
    home = f"{_STORE}/{entry.entry_id}"
    for file, facts in entry.manifest.files.items():
        name = f"{home}/{entry.folder.name}/{file}"
        try:
            with entry.path(file).open("rb") as stream:
                _copy(stream, target / name)
            problem = difference(facts_of(target / name), facts)
        except FileNotFoundError:
            problem = FileProblem("missing", "is missing")
        except CorruptEntryError as error:
            raise _damaged(entry, error.seen) from error
        if problem:
            raise _damaged(entry, f"Entry {entry.entry_id}: {file} {problem}")
        yield name
        advance()
    (target / home).mkdir(parents=True, exist_ok=True)
    (target / home / MANIFEST).write_bytes(entry.manifest.encode())
    yield f"{home}/{MANIFEST}"


def _damaged(entry: Entry, seen: str) -> CorruptEntryError:
    # The home of the entry may be a team's home, where other experiments use it: verify finds the right command there.
    remedy = Remedy("verify", entry_id=entry.entry_id, home=str(entry.folder.parents[3]))
    return CorruptEntryError(f"{seen}; nothing is exported", allowed="files that match the manifest", remedy=remedy)


def _copy(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(stream, target)


@dataclass(frozen=True)
class Export:
    """A home to import from: the plain files below it with their sizes, and how to open one of them."""

    where: Path
    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]

    def manifests(self) -> list[Manifest]:
        """The manifests of all entries, once each of their files is known to have the right size.

        Raises:
            SchemaVersionError: all entries have another schema version; some of them are skipped with a warning.
            CorruptEntryError: there is no entry, or a manifest or a file is missing or damaged.
        """
        found = [path for path in map(PurePosixPath, sorted(self.sizes)) if path.match(f"{_STORE}/*/*/{MANIFEST}")]
        found = [path for path in found if len(path.parts) == len((_STORE, "kind", "key", MANIFEST))]
        self._warn_of_unfinished({path.parent for path in found})
        entries, others = [], []
        for path in found:
            try:
                entries.append(self._manifest(path))
            except SchemaVersionError as error:
                log.warning("%s; the entry is not imported", error.seen)
                others.append(error)
        if not entries:
            raise others[0] if others else _bad(self.where, "holds no entries")
        return entries

    def _warn_of_unfinished(self, finished: Collection[PurePosixPath]) -> None:
        """Warn of entries without a manifest: a run is writing them, or the copy of the home is incomplete."""
        folders = {PurePosixPath(*path.parts[:3]) for path in map(PurePosixPath, self.sizes) if len(path.parts) > 3}
        for folder in sorted(folders - set(finished)):
            log.warning("%s has no manifest of %s; that entry is not imported", self.where, folder.relative_to(_STORE))

    def _manifest(self, path: PurePosixPath) -> Manifest:
        with self.open(str(path)) as stream:
            manifest = Manifest.decode(stream.read(), where=f"{self.where}: {path}")
        entry_id = f"{path.parts[1]}/{path.parts[2]}"
        if manifest.entry_id != entry_id:
            raise _bad(self.where, f"has at {entry_id} the manifest of {manifest.entry_id}")
        if manifest.kind not in KINDS:
            raise _bad(self.where, f"holds an entry of the unknown kind '{manifest.kind}'")
        if {str(folder) for file in manifest.files for folder in PurePosixPath(file).parents} & set(manifest.files):
            raise _bad(self.where, f"has an entry {entry_id} with one name for a file and a folder")
        for file, facts in manifest.files.items():
            size = self.sizes.get(f"{path.parent}/{manifest.folder}/{file}")
            problem = FileProblem("missing", "is missing") if size is None else difference(FileFacts(size, facts.sha256), facts)
            if problem:
                raise _bad(self.where, f"is incomplete: {entry_id}, {file} {problem}")
        return manifest


@contextmanager
def open_export(path: Path) -> Iterator[Export]:
    """Open a home, or a tar file of one, to import its entries.

    Raises:
        StoreError: it does not exist, or is neither a folder nor a file.
        CorruptEntryError: it is no tar file, or holds something that an export never holds.
    """
    if path.is_dir():
        yield _folder_export(path)
    elif path.is_file():
        try:
            with _tar_export(path) as export:
                yield export
        except tarfile.TarError as error:
            raise _bad(path, f"cannot be read as a tar file: {error}") from error
    else:
        seen = f"{path} is neither a file nor a folder" if path.exists() else f"There is no {path}"
        raise StoreError(seen, allowed="a home, or a .tar file of an export")


def _bad(where: Path, what: str) -> CorruptEntryError:
    again = Remedy("advice", text="export it again")
    return CorruptEntryError(f"{where} {what}", allowed="a home or a .tar file, complete and unchanged", remedy=again)


def _folder_export(path: Path) -> Export:
    sizes = {}
    for folder, folders, names in os.walk(path / _STORE, onerror=_unreadable):
        if links := [name for name in folders if (Path(folder) / name).is_symlink()]:
            raise _bad(path, f"holds {Path(folder) / links[0]}, a link to a folder, which may lead out of it")
        for file in (Path(folder) / name for name in names):
            # A run may be at work in this home, and its temporary files may vanish.
            with suppress(FileNotFoundError):
                facts = file.lstat()
                # A link may lead out of the export: it is left out, and the file is missing.
                if stat.S_ISREG(facts.st_mode):
                    sizes[file.relative_to(path).as_posix()] = facts.st_size
    return Export(path, sizes, lambda name: (path / name).open("rb"))


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _tar_export(path: Path) -> Iterator[Export]:
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(path, "r:"))
            members = _members(path, tar)
        except (ValueError, OverflowError) as error:
            raise tarfile.ReadError(f"a header is damaged ({error})") from error
        with path.open("rb") as stream:
            stream.seek(-min(len(_TAR_END), path.stat().st_size), os.SEEK_END)
            if stream.read() != _TAR_END:
                raise _bad(path, "is incomplete: the end of the tar file is missing")

        def opened(name: str) -> IO[bytes]:
            content = tar.extractfile(members[name])
            assert content is not None, "a plain file has content"
            return content

        yield Export(path, {name: member.size for name, member in members.items()}, opened)


def _members(path: Path, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    members: dict[str, tarfile.TarInfo] = {}
    # Not getmembers(): a negative size leads back to earlier members, and it would never end.
    for member in tar:
        if not is_plain_name(member.name):
            raise _bad(path, f"holds {member.name!r}, which is no plain name of a file inside of it")
        if not member.isreg() or member.issparse():
            raise _bad(path, f"holds {member.name!r}, which is no plain file")
        if member.name in members:
            raise _bad(path, f"holds {member.name!r} twice")
        members[member.name] = member
    return members


def import_entry(store: Store, export: Export, manifest: Manifest, *, advance: Callable[[], None]) -> Outcome:
    """Copy one entry of the export into the store, unless it exists there; call ``advance`` after each file.

    Raises:
        CorruptEntryError: a file does not match its manifest; then the store has nothing of the entry.
        StoreError: the store cannot be written, such as on a full disk.
    """
    try:
        # The parts of a dead writer are not adopted: they may have other bits.
        with store.draft(manifest.kind, manifest.recipe, adopt=False) as draft:
            if isinstance(draft, Draft):
                _fill(draft, export, manifest, advance)
                facts = manifest.files
                entry = draft.commit(list(facts), measured=manifest.measured, made=manifest.made)
                if entry.folder == draft.folder:
                    return "imported"
            else:
                entry = draft
                for _ in manifest.files:
                    advance()
    except OSError as error:
        raise StoreError(
            f"{manifest.entry_id} cannot be imported: {error.strerror or error} ({error.filename or store.root})",
            allowed="a store that this user may write, with enough space",
            remedy=Remedy("repeat", text="entries that exist are skipped"),
        ) from error
    return "exists already" if entry.manifest.payload == manifest.payload else "exists already, with other bits"


def _fill(draft: Draft, export: Export, manifest: Manifest, advance: Callable[[], None]) -> None:
    try:
        for name in manifest.files:
            with export.open(f"{_STORE}/{manifest.entry_id}/{manifest.folder}/{name}") as stream:
                _copy(stream, draft.work / name)
            advance()
        # The commit compares the files with the facts of this part.
        for name, found in finish_part(draft.folder, _PART, list(manifest.files)).files.items():
            if problem := difference(found, manifest.files[name]):
                raise _bad(export.where, f"is damaged: {manifest.entry_id}, {name} {problem}")
    except BaseException:
        draft.abandon()
        raise
