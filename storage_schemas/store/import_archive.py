"""Entries that come in from an export: nothing in it is trusted, and nothing of an entry is found before all of it is checked.

Only plain files are read, by the names that manifests give; an entry is committed like any other, once each of its files has
the size and sha256 of its manifest.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from storage_schemas.errors import KINDS, CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.facts import FileFacts, difference
from storage_schemas.store.export_archive import INDEX, SCHEMA_VERSION, Hashed, copy
from storage_schemas.store.manifest import MANIFEST, Manifest, is_plain_name
from storage_schemas.store.store import Draft, Store

__all__ = ["Archive", "Outcome", "import_entry", "opened_archive"]

Outcome = Literal["imported", "there already", "there already, with other bits"]


@dataclass(frozen=True)
class _Source:
    """Where files come in from: the size of every plain file by its name, and how one is opened."""

    where: Path
    sizes: Mapping[str, int]
    open: Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class Archive:
    """An export that was looked through: the manifests of its entries, and where their files are."""

    manifests: Sequence[Manifest]
    source: _Source


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open an export and read all its manifests; that every file is there, in its size, is seen before any is copied.

    Raises:
        StoreError: it is not there, a home, or of another schema version.
        CorruptEntryError: it is no export, not a whole one, or holds what an export never holds.
    """
    if path.is_dir():
        if (path / "store").is_dir():
            raise StoreError(
                f"{path} is a home, and no export",
                allowed="a folder or a .tar file that 'export' has left",
                remedy=Remedy("export", entry_id="KEY DEST", home=str(path)),
            )
        source = _folder(path)
        yield Archive(_manifests(source), source)
        return
    if not path.exists():
        raise StoreError(f"There is no {path}", allowed="a folder or a .tar file that 'export' has left")
    if not path.is_file():
        raise StoreError(f"{path} is neither a file nor a folder", allowed="a folder or a .tar file that 'export' has left")
    try:
        with _opened_tar(path) as tar:
            source = _tar(path, tar)
            yield Archive(_manifests(source), source)
    except tarfile.TarError as error:
        raise _bad(path, f"cannot be read as a tar file: {error}") from error


def _bad(where: Path, what: str) -> CorruptEntryError:
    return CorruptEntryError(
        f"{where} {what}",
        allowed="a folder or a .tar file as an export leaves it, whole and unchanged",
        remedy=Remedy("advice", text="export it again"),
    )


def _folder(path: Path) -> _Source:
    sizes = {}
    for folder, _, names in os.walk(path):
        for name in names:
            facts = (Path(folder) / name).lstat()
            # A link is left out, wherever it leads: to a manifest that names it, it is missing.
            if stat.S_ISREG(facts.st_mode):
                sizes[(Path(folder) / name).relative_to(path).as_posix()] = facts.st_size
    return _Source(path, sizes, lambda name: (path / name).open("rb"))


def _tar(path: Path, tar: tarfile.TarFile) -> _Source:
    members: dict[str, tarfile.TarInfo] = {}
    # Not by getmembers(): a negative size leads back to members that were read already, and it would go round for ever.
    for member in _members(tar):
        if not is_plain_name(member.name):
            raise _bad(path, f"holds {member.name!r}, which is no plain name of a file inside of it")
        if not member.isreg() or member.issparse():
            raise _bad(path, f"holds {member.name!r}, which is no plain file")
        if member.name in members:
            raise _bad(path, f"holds {member.name!r} twice")
        members[member.name] = member

    def opened(name: str) -> IO[bytes]:
        stream = tar.extractfile(members[name])
        assert stream is not None, "of a plain file there is a stream"
        return stream

    return _Source(path, {name: member.size for name, member in members.items()}, opened)


@contextmanager
def _numbers_in_headers() -> Iterator[None]:
    """Those that are none are raised by tarfile as they are found, and not as what they mean."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise tarfile.ReadError(f"a header that is none ({error})") from error


def _opened_tar(path: Path) -> tarfile.TarFile:
    # The first header is read already.
    with _numbers_in_headers():
        return tarfile.open(path, "r:")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    with _numbers_in_headers():
        yield from tar


def _manifests(source: _Source) -> list[Manifest]:
    try:
        index = json.loads(_read(source, INDEX))
        schema, entry_ids = index["schema"], list(map(str, index["entries"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad(source.where, f"has no list of entries in {INDEX} ({error!r})") from error
    if schema != SCHEMA_VERSION:
        raise StoreError(
            f"{source.where} has schema version {schema!r}",
            allowed=f"version {SCHEMA_VERSION}, which this release writes",
            remedy=Remedy("advice", text="use the release that wrote it"),
        )
    return [_manifest(source, entry_id) for entry_id in dict.fromkeys(entry_ids)]


def _manifest(source: _Source, entry_id: str) -> Manifest:
    name = f"{entry_id}/{MANIFEST}"
    manifest = Manifest.decode(_read(source, name), where=f"{source.where}: {name}")
    if manifest.entry_id != entry_id:
        raise _bad(source.where, f"has at {entry_id} the manifest of {manifest.entry_id}")
    if manifest.kind not in KINDS:
        raise _bad(source.where, f"holds an entry of kind '{manifest.kind}', which is none of {', '.join(KINDS)}")
    if {str(folder) for file in manifest.files for folder in PurePosixPath(file).parents} & set(manifest.files):
        raise _bad(source.where, f"has an entry {entry_id} of which one name is file and folder")
    for file, facts in manifest.files.items():
        size = source.sizes.get(f"{entry_id}/{manifest.folder}/{file}")
        if size is None:
            raise _bad(source.where, f"is not whole: {entry_id}, {file} is missing")
        if size != facts.size:
            raise _bad(source.where, f"is not whole: {entry_id}, {file} {difference(FileFacts(size, ''), facts)}")
    return manifest


def _read(source: _Source, name: str) -> bytes:
    if name not in source.sizes:
        raise _bad(source.where, f"is no export, or not a whole one: there is no {name}")
    with source.open(name) as stream:
        return stream.read()


def import_entry(
    store: Store, archive: Archive, manifest: Manifest, *, advance: Callable[[], None], tell: Callable[[str], None]
) -> Outcome:
    """Take one of the archive's entries into the store, unless it is there already; ``advance`` is called for each file.

    Raises:
        CorruptEntryError: a file is not as its manifest says; nothing of the entry is in the store then.
        StoreError: it cannot be written, as on a disk that is full.
    """
    try:
        return _imported(store, archive, manifest, advance=advance, tell=tell)
    except OSError as error:
        raise StoreError(
            f"{manifest.entry_id} cannot be taken in: {error.strerror or error} ({error.filename or store.root})",
            allowed="a store that this user may write, with room for it; what came in before stays",
            remedy=Remedy("repeat", text="entries that exist are skipped"),
        ) from error


def _imported(
    store: Store, archive: Archive, manifest: Manifest, *, advance: Callable[[], None], tell: Callable[[str], None]
) -> Outcome:
    # Bits of a dead writer are not adopted: they may be others.
    with store.draft(manifest.kind, manifest.recipe, adopt=False, tell=tell) as draft:
        if isinstance(draft, Draft):
            _fill(draft, archive.source, manifest, advance)
            entry = draft.commit(list(manifest.files), measured=manifest.measured, made=manifest.made, expected=manifest.files)
            if entry.folder == draft.folder:
                return "imported"
        else:
            entry = draft
            for _ in manifest.files:
                advance()
    return "there already" if entry.manifest.payload == manifest.payload else "there already, with other bits"


def _fill(draft: Draft, source: _Source, manifest: Manifest, advance: Callable[[], None]) -> None:
    try:
        for name, facts in manifest.files.items():
            with source.open(f"{manifest.entry_id}/{manifest.folder}/{name}") as stream:
                hashed = Hashed(stream)
                copy(hashed, draft.work / name)
            if problem := difference(hashed.facts(), facts):
                raise _bad(source.where, f"is damaged: {manifest.entry_id}, {name} {problem}")
            advance()
    except BaseException:
        draft.abandon()
        raise
