"""The one way a file of the store is written: whole, synced, and under its final name only when it is complete."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.path import StorePath

__all__ = ["sha256_file", "sha256_known", "sync_files", "sync_folder", "write_atomic"]

_READ_BYTES = 1 << 20


def write_atomic(path: StorePath, data: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
    """Write ``data`` under ``path`` so that a reader sees all of it or none.

    With ``exclusive`` the file must not exist yet (a hard link is created atomically on local disks and on NFS), so that of
    two writers one wins and the other gets ``FileExistsError``. Without ``durable`` a power failure may lose the file.
    An object of a bucket is so by itself.
    """
    if isinstance(path, BucketPath):
        path.put(data, exclusive=exclusive)
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        if exclusive:
            path.hardlink_to(partial)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def sync_files(folder: StorePath, names: Iterable[str]) -> None:
    """Make files (``names`` below ``folder``) durable, and every folder on the way to them; objects are."""
    if isinstance(folder, BucketPath):
        return
    folders = {folder}
    for name in names:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
        folders |= {folder / parent for parent in Path(name).parents}
    for each in sorted(folders, reverse=True):
        sync_folder(each)


def sync_folder(folder: StorePath) -> None:
    """Make the names in ``folder`` durable: without it a rename may be lost with the power."""
    if isinstance(folder, BucketPath):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: StorePath) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    if isinstance(path, BucketPath):
        return path.sha256()
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_known(path: StorePath) -> str:
    """As ``sha256_file``, but read only once a process while the file's size and time of change stay as they are.

    Raises:
        OSError: the file is not there or cannot be read.
    """
    if isinstance(path, BucketPath):
        facts = path.facts()
        if facts is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path))
        return _sha256_of_state(path, facts.size, int(facts.changed * 1e9))
    stat = path.stat()
    return _sha256_of_state(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256_of_state(path: StorePath, size: int, changed_ns: int) -> str:
    return sha256_file(path)
