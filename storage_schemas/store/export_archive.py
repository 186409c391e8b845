"""Entries on their way to another store: a folder, or one tar file, laid out like a store, with a list of what it holds.

Every file is checked while it is copied, and an export gets its name only when all of it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

from storage_schemas.errors import CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.facts import FileFacts, FileProblem, difference
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.manifest import MANIFEST
from storage_schemas.store.store import Entry

__all__ = ["INDEX", "SCHEMA_VERSION", "Hashed", "Readable", "check_target", "copy", "export_entries"]

INDEX = "export.json"
"""The file that names the places (``kind/key``) of the entries."""
SCHEMA_VERSION = 1
_COPY_BYTES = 1 << 20
_OTHER_ARCHIVES = (".tgz", ".gz", ".zip", ".bz2", ".xz", ".zst")


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, or all."""


class Hashed:
    """A stream whose bytes are counted and hashed while they are read."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._digest, self._size = stream, hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        """As of the stream."""
        data = self._stream.read(size)
        self._digest.update(data)
        self._size += len(data)
        return data

    def facts(self) -> FileFacts:
        """Of all that was read."""
        return FileFacts(self._size, self._digest.hexdigest())


def check_target(target: Path) -> None:
    """Whether an export can be made at ``target``.

    Raises:
        StoreError: it is there already, cannot be there, or is called like an archive of another kind, and would be a folder.
    """
    if os.path.lexists(target):
        raise StoreError(
            f"{target} is there already",
            allowed="the name of a folder or .tar file to be made",
            remedy=Remedy("advice", text="the same command with another name"),
        )
    if not target.parent.is_dir():
        raise StoreError(
            f"There is no folder {target.parent}",
            allowed=f"a folder that {target.name} can be made in",
            remedy=Remedy("shell", text=f"mkdir -p {shlex.quote(str(target.parent))}"),
        )
    if target.suffix != ".tar" and target.suffix.lower() in (".tar", *_OTHER_ARCHIVES):
        raise StoreError(
            f"{target.name} would be a folder",
            allowed="a name that ends in .tar, or one of a folder",
            remedy=Remedy("advice", text=f"the same command with {target.stem}.tar"),
        )


def export_entries(entries: Sequence[Entry], target: Path, *, advance: Callable[[], None]) -> None:
    """Copy ``entries`` to ``target``, a folder or (if its name ends in .tar) a tar file; ``advance`` is called for each file.

    Raises:
        StoreError: as ``check_target``.
        CorruptEntryError: a file is not as its manifest says; nothing is left at ``target``.
    """
    check_target(target)
    partial = LocalPath(target).with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with _into_tar(partial) if target.suffix == ".tar" else _into_folder(partial) as add:
            index = json.dumps({"schema": SCHEMA_VERSION, "entries": [entry.entry_id for entry in entries]}, indent=1).encode()
            add(INDEX, len(index), BytesIO(index))
            for entry in entries:
                _export(entry, add, advance)
        partial.rename(target)
        partial.parent.sync_folder()
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


_Add = Callable[[str, int, Readable], None]
"""Adds a file of a name, a size and content to an export."""


@contextmanager
def _into_folder(folder: LocalPath) -> Iterator[_Add]:
    names: list[str] = []

    def add(name: str, _: int, stream: Readable) -> None:
        copy(stream, folder / name)
        names.append(name)

    yield add
    folder.sync_files(names)


@contextmanager
def _into_tar(path: Path) -> Iterator[_Add]:
    with path.open("xb") as stream:
        with tarfile.open(fileobj=stream, mode="w") as tar:

            def add(name: str, size: int, content: Readable) -> None:
                member = tarfile.TarInfo(name)
                member.size = size
                tar.addfile(member, content)

            yield add
        stream.flush()
        os.fsync(stream.fileno())


def _export(entry: Entry, add: _Add, advance: Callable[[], None]) -> None:
    manifest = entry.manifest.encode()
    add(f"{entry.entry_id}/{MANIFEST}", len(manifest), BytesIO(manifest))
    for name, facts in entry.manifest.files.items():
        try:
            path = entry.path(name)
        except CorruptEntryError as error:
            raise _damaged(entry, error.seen) from error
        if not path.is_file():
            problem: FileProblem | None = FileProblem("missing", "is missing")
        elif (size := path.stat().st_size) != facts.size:
            # Told before any of it is written: in a tar the size stands in front.
            problem = difference(FileFacts(size, ""), facts)
        else:
            with path.open("rb") as stream:
                hashed = Hashed(stream)
                add(f"{entry.entry_id}/{entry.folder.name}/{name}", size, hashed)
            problem = difference(hashed.facts(), facts)
        if problem:
            raise _damaged(entry, f"Entry {entry.entry_id}: {name} {problem}")
        advance()


def _damaged(entry: Entry, seen: str) -> CorruptEntryError:
    return CorruptEntryError(
        f"{seen}; nothing is exported",
        allowed="the files as its manifest describes them; 'verify' says what mends it",
        # Of the home that it lies in, which may be a team's: what mends it there depends on who uses it.
        remedy=Remedy("verify", entry_id=entry.entry_id, home=str(entry.folder.parents[3])),
    )


def copy(stream: Readable, path: Path) -> None:
    """Write what ``stream`` gives to a new file, in folders that are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(stream, target, _COPY_BYTES)
