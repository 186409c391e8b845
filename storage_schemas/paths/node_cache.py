"""Files of the store on this node: those of a file system as they are, those of a bucket fetched once and seen to be whole."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from storage_schemas.errors import CorruptEntryError, Remedy
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import sha256_file
from storage_schemas.paths.path import StorePath, in_threads, mirror, mirror_root
from storage_schemas.store.manifest import FileFacts, difference

__all__ = ["File", "Folder", "RemoteFile", "RemoteFolder", "fetched", "here"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """An object, and what it must be; ``remedy`` is what to do where it is something else."""

    path: BucketPath
    facts: FileFacts
    remedy: Remedy | None = None

    @property
    def suffix(self) -> str:
        """How its name ends, such as ``.onnx``."""
        return Path(self.path.name).suffix


@dataclass(frozen=True)
class RemoteFolder:
    """Objects below a place, by name, and what each must be."""

    path: BucketPath
    files: tuple[tuple[str, FileFacts], ...]
    remedy: Remedy | None = None


File = Path | RemoteFile
"""A file of the store as it is handed to another process, which asks ``here`` for it."""
Folder = Path | RemoteFolder
"""A folder, likewise."""


def here(what: File | Folder) -> Path:
    """The path on this node, to be read; fetched, if need be, under its name only once it is whole.

    Raises:
        CorruptEntryError: an object is missing, or is not what it must be.
    """
    if isinstance(what, Path):
        return what
    if isinstance(what, RemoteFile):
        return _fetched(what)
    files = [RemoteFile(what.path / name, facts, what.remedy) for name, facts in what.files]
    missing = [file for file in files if not _is_whole(file)]
    list(in_threads(_fetched, missing))
    return mirror(what.path)


def fetched(place: StorePath, *, anew: bool = False) -> Path:
    """The path on this node of a file whose content the caller looks at; fetched if it is not there, or ``anew``.

    Raises:
        OSError: there is no such object, or it cannot be read.
    """
    if isinstance(place, Path):
        return place
    path = mirror(place)
    if anew or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            _download(place, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _fetched(file: RemoteFile) -> Path:
    path = mirror(file.path)
    with _fetching(path):
        return path if _is_whole(file) else _fetch(file, path)


@contextmanager
def _fetching(path: Path) -> Iterator[None]:
    """One process of a node fetches a file, and the others find it: not each of them all that all need."""
    locks = mirror_root() / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / hashlib.sha256(str(path).encode()).hexdigest()[:2]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(file: RemoteFile, path: Path) -> Path:
    if path.exists():
        log.warning("%s is not what it should be, and is fetched again", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if problem := difference(_download(file.path, partial), file.facts):
            raise _bad(file, problem)
        partial.replace(path)
    except FileNotFoundError as error:
        raise _bad(file, "is missing") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(place: BucketPath, target: Path) -> FileFacts:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as stream:
        for block in place.blocks():
            stream.write(block)
            digest.update(block)
            size += len(block)
    return FileFacts(size, digest.hexdigest())


def _bad(file: RemoteFile, problem: str) -> CorruptEntryError:
    return CorruptEntryError(
        f"{file.path} {problem}", allowed="the object as it was written, which its manifest describes", remedy=file.remedy
    )


def _is_whole(file: RemoteFile) -> bool:
    """Whether this node has the file; its bytes are read once a process, as long as size and time of change stay."""
    path = mirror(file.path)
    try:
        state = path.stat()
    except OSError:
        return False
    return state.st_size == file.facts.size and _sha256(path, os.getpid(), state.st_mtime_ns) == file.facts.sha256


@lru_cache(maxsize=1 << 16)
def _sha256(path: Path, process: int, changed_ns: int) -> str:
    return sha256_file(path)
