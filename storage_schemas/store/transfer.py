"""Export and import: an export is a home with just the exported entries, as a folder or as a tar file.

An import trusts nothing: it reads only plain files that manifests name, and commits an entry once each file has the size
and sha256 of its manifest.
"""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from storage_schemas.errors import KINDS, CorruptEntryError, OdkdError, Remedy, SchemaVersionError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.manifest import MANIFEST, Manifest, is_plain_name
from storage_schemas.store.store import Draft, Entry, Store

__all__ = ["Export", "Outcome", "export_entries", "import_entry", "open_export"]

log = logging.getLogger(__name__)

Outcome = Literal["imported", "exists already", "exists already, with other bits"]

_STORE = "store"
_OTHER_ARCHIVES = (".tgz", ".gz", ".zip", ".bz2", ".xz", ".zst")
_MANIFEST_BLOCKS = 64
"""64 MB on a disk; 100,000 files take 15."""
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def export_entries(entries: Sequence[Entry], target: Path, *, advance: Callable[[], None]) -> None:
    """Copy ``entries`` to ``target``, a folder or (if its name ends in .tar) a tar file; call ``advance`` after each file.

    Raises:
        StoreError: it exists, its folder does not, or its name is that of another kind of archive.
        CorruptEntryError: a file does not match its manifest; then nothing is left at ``target``.
    """
    _check_target(target)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as scratch:
        made = LocalPath(scratch) / "home"
        names = [name for entry in entries for name in _export(entry, made, advance)]
        if target.suffix == ".tar":
            made = _packed(made, names)
            made.parent.sync_files([made.name])
        else:
            made.sync_files(names)
        made.rename(target)
        LocalPath(target.parent).sync_files([])


def _check_target(target: Path) -> None:
    if os.path.lexists(target):
        another_name = Remedy("advice", text="the same command with another name")
        raise StoreError(f"{target} exists already", allowed="a new folder or .tar file", remedy=another_name)
    if not target.parent.is_dir():
        raise StoreError(f"There is no folder {target.parent}", allowed=f"an existing folder for {target.name}")
    if target.suffix != ".tar" and target.suffix.lower() in (".tar", *_OTHER_ARCHIVES):
        raise StoreError(f"{target.name} would be a folder", allowed="a name that ends in .tar, or one of a folder")


def _export(entry: Entry, target: LocalPath, advance: Callable[[], None]) -> Iterator[str]:
    """Copy an entry into the home ``target``, and yield the name of each file there."""
    home = f"{_STORE}/{entry.entry_id}"
    for file, facts in entry.manifest.files.items():
        name = f"{home}/{entry.folder.name}/{file}"
        if problem := (target / name).write_blocks((entry.folder / file).blocks(), facts):
            raise CorruptEntryError(
                f"Entry {entry.entry_id}: {file} {problem}; nothing is exported",
                allowed="files that match the manifest",
                # The home of the entry may be a team's home, where other experiments use it: verify finds the right command.
                remedy=Remedy("verify", entry_id=entry.entry_id, home=str(entry.folder.parents[3])),
            )
        yield name
        advance()
    (target / home).mkdir(parents=True, exist_ok=True)
    (target / home / MANIFEST).write_bytes(entry.manifest.encode())
    yield f"{home}/{MANIFEST}"


def _packed(folder: LocalPath, names: Sequence[str]) -> LocalPath:
    """Move the files ``names`` below the folder into a tar file beside it."""
    packed = folder.with_suffix(".tar")
    with tarfile.open(packed, "x") as tar:
        for name in names:
            # Without the user, the mode and the time of this machine.
            member = tarfile.TarInfo(name)
            member.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as content:
                tar.addfile(member, content)
            # The disk need not hold every file twice.
            (folder / name).unlink()
    return packed


@dataclass(frozen=True)
class Export:
    """A home to import from: the ids of its entries, finished or not, and the bytes of a file below its store."""

    where: StorePath
    entry_ids: Sequence[str]
    read: Callable[[str], Iterator[bytes]]

    def blocks(self, name: str) -> Iterator[bytes]:
        """The file block by block; raises ``FileNotFoundError`` if it is missing or no plain file."""
        try:
            yield from self.read(name)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _bad(self.where, f"holds {name!r}, which cannot be read: {error}") from error

    def manifests(self) -> list[Manifest]:
        """The manifests of all entries; entries without one and of other schema versions are skipped with a warning.

        Raises:
            SchemaVersionError: all entries have another schema version.
            CorruptEntryError: there is no entry, or a manifest is damaged.
        """
        found: list[Manifest] = []
        fault: OdkdError = _bad(self.where, "holds no entries")
        for entry_id in self.entry_ids:
            name = f"{entry_id}/{MANIFEST}"
            try:
                # A longer one is cut, and so damaged: a stranger's file must not fill the memory.
                data = b"".join(islice(self.blocks(name), _MANIFEST_BLOCKS))
                manifest = Manifest.decode(data, where=f"{self.where}/{_STORE}/{name}")
            except FileNotFoundError:
                # A run is writing the entry, or the copy of the home is incomplete.
                log.warning("%s has no manifest of %s; that entry is not imported", self.where, entry_id)
            except SchemaVersionError as error:
                log.warning("%s; the entry is not imported", error.seen)
                fault = error
            else:
                if manifest.entry_id != entry_id:
                    raise _bad(self.where, f"has at {entry_id} the manifest of {manifest.entry_id}")
                if manifest.kind not in KINDS:
                    raise _bad(self.where, f"holds an entry of the unknown kind '{manifest.kind}'")
                found.append(manifest)
        if not found:
            raise fault
        return found


def open_export(source: StorePath) -> Export:
    """Open a home, or a tar file of one, to import its entries.

    Raises:
        StoreError: it does not exist, or is neither a folder nor a file.
        CorruptEntryError: it is no tar file, or holds something that an export never holds.
    """
    if source.is_dir():
        return _open_home(source)
    if source.mirror().is_file():
        return _open_tar(source.mirror())
    raise StoreError(f"There is no file and no folder {source}", allowed="a home, or a .tar file on this machine")


def _bad(where: StorePath, what: str) -> CorruptEntryError:
    again = Remedy("advice", text="export it again")
    return CorruptEntryError(f"{where} {what}", allowed="a home or a .tar file, complete and unchanged", remedy=again)


def _open_home(home: StorePath) -> Export:
    store = home / _STORE
    root = os.path.realpath(store.mirror())

    def read(name: str) -> Iterator[bytes]:
        path = store / name
        if os.path.realpath(path.mirror()) != f"{root}/{name}":
            raise _bad(home, f"holds {path}, a link or a file behind one, which may lead out of it")
        # A pipe, which would be waited for, counts as missing.
        if path.state() is None:
            raise FileNotFoundError(path)
        yield from path.blocks()

    return Export(home, [f"{folder.parent.name}/{folder.name}" for folder in Store(store).entry_folders()], read)


def _open_tar(path: LocalPath) -> Export:
    try:
        members = _members(path)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _bad(path, f"cannot be read as a tar file: {error}") from error

    def read(name: str) -> Iterator[bytes]:
        member = members.get(f"{_STORE}/{name}")
        if member is None:
            raise FileNotFoundError(name)
        yield from path.blocks(member.offset_data, max(0, member.size))

    parts = [name.split("/") for name in members]
    return Export(path, sorted({f"{part[1]}/{part[2]}" for part in parts if part[0] == _STORE and part[3:]}), read)


def _members(path: LocalPath) -> dict[str, tarfile.TarInfo]:
    """The files in a tar file, by name."""
    members: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(path, "r:") as tar:
        # Not getmembers(): a negative size leads back to earlier members, and it would never end.
        for member in tar:
            if not is_plain_name(member.name) or not member.isreg() or member.issparse():
                raise _bad(path, f"holds {member.name!r}, which is no plain file inside of it")
            if member.name in members:
                raise _bad(path, f"holds {member.name!r} twice")
            members[member.name] = member
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(_TAR_END)))
        if stream.read() != _TAR_END:
            raise _bad(path, "is incomplete: the end of the tar file is missing")
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
                entry = draft.commit(manifest.files, measured=manifest.measured, made=manifest.made)
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
        for name, facts in manifest.files.items():
            blocks = export.blocks(f"{manifest.entry_id}/{manifest.folder}/{name}")
            if problem := (draft.work / name).write_blocks(blocks, facts):
                raise _bad(export.where, f"is damaged: {manifest.entry_id}, {name} {problem}")
            advance()
    except BaseException:
        draft.abandon()
        raise
