"""Cached arrays as memory maps: decoded once, in order, into a raw file that all workers of a node share.

Random batches straight from Zarr are limited by its cost a request (about 2,000 rows a second); from a map they are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from storage_schemas.errors import StoreError
from storage_schemas.formats.targets import array_facts, read_rows, rows_per_block

__all__ = ["MappedArray"]

log = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SPARE = 1.25


class MappedArray:
    """One array of an entry as a read-only map.

    Whoever writes or uses the file holds a shared lock on it, which the kernel takes back from a killed process: so the last
    to close its map removes the file. Of what killed runs have left, a next map of the same array takes the whole file, and
    then removes it; all else that nobody holds is removed before a map is made. A file is only trusted since the machine was
    started: one on a disk may have lost its content with the power.

    Raises:
        CorruptEntryError: the array cannot be read.
        StoreError: there is no room for the file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        shape, dtype = array_facts(folder, name)
        file = f"{hashlib.sha256(f'{_boot_id()} {folder}/{name}'.encode()).hexdigest()[:16]}.raw"
        _remove_leftovers(keep=file)
        existing = _existing(file)
        self._path, self._stream = existing or _decode(folder, name, file, shape, dtype)
        self.rows: npt.NDArray[Any] = np.memmap(self._stream, dtype=dtype, mode="r", shape=shape)

    def close(self) -> None:
        """Give the map back; the last one to do so removes the file (what was taken from ``rows`` stays readable)."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink_held(self._path, self._stream)
        except BlockingIOError:
            log.debug("%s is still used by another process", self._path)
        finally:
            self._stream.close()


def _boot_id() -> str:
    """Another text each time the machine is started, or nothing where the system has no such text."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _folders() -> list[Path]:
    """Private folders of this user, in shared memory and on disk."""
    found = []
    for root in (_SHARED_MEMORY, Path(tempfile.gettempdir())):
        if root.is_dir() and os.access(root, os.W_OK):
            folder = root / f"odkd-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            # Anybody may make a folder there: in another's, the rows could be another's too.
            if folder.stat(follow_symlinks=False).st_uid == os.getuid():
                found.append(folder)
    return found


def _remove_leftovers(*, keep: str) -> None:
    """Remove the files that no process holds, whole or begun, but for the one of the name ``keep``."""
    for folder in _folders():
        for path in (*folder.glob("*.raw"), *folder.glob("*.partial")):
            if path.name != keep:
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _unlink_held(path, stream)
        log.info("Removed %s, which a killed run had left", path)


def _unlink_held(path: Path, stream: BinaryIO) -> None:
    # Between opening and locking, another may have removed the file and a third have made one of the same name.
    if _is_at(path, stream):
        path.unlink(missing_ok=True)


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Whether the open file is still the one that ``path`` names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _existing(file: str) -> tuple[Path, BinaryIO] | None:
    """The file where another process has made it, with a lock."""
    for folder in _folders():
        try:
            stream = (folder / file).open("rb")
        except FileNotFoundError:
            continue
        fcntl.flock(stream, fcntl.LOCK_SH)
        if _is_at(folder / file, stream):
            return folder / file, stream
        # Its last user removed it before the lock was there.
        stream.close()
    return None


def _place(size: int, what: str) -> Path:
    """Where ``size`` bytes have room: in shared memory, or on disk where that is too small (in a container often 64 MB)."""
    folders = _folders()
    if not folders:
        raise StoreError(f"Neither {_SHARED_MEMORY} nor {tempfile.gettempdir()} can be written", allowed="TMPDIR=FOLDER")
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free > size * _SPARE:
            return folder
        log.warning("%s has %d MB free, too little for the %d MB of %s", folder.parent, free >> 20, size >> 20, what)
    return folders[-1]


def _decode(folder: Path, name: str, file: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Path, BinaryIO]:
    """Write the file whole under a name of its own, then give it the name by which others find it."""
    size = int(np.prod(shape)) * dtype.itemsize
    path = _place(size, f"{folder}/{name}") / file
    partial, stream = _begun(path)
    try:
        _reserve(stream, size, path)
        rows = np.memmap(stream, dtype=dtype, mode="r+", shape=shape)
        block = rows_per_block(shape[0])
        for start in range(0, shape[0], block):
            rows[start : start + block] = read_rows(folder, name, start, start + block)
        # The name says that the content is whole, so the content comes first, on a disk too.
        rows.flush()
        os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        stream.close()
        partial.unlink(missing_ok=True)
        raise
    return path, stream


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """An empty file beside ``path`` under a name of its own, with a lock."""
    while True:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        stream = partial.open("x+b")
        fcntl.flock(stream, fcntl.LOCK_SH)
        if _is_at(partial, stream):
            return partial, stream
        # Before the lock was there, another process took the file for a leftover.
        stream.close()


def _reserve(stream: BinaryIO, size: int, path: Path) -> None:
    # Writing to a map for which there is no room would end the process without a word (SIGBUS).
    try:
        os.posix_fallocate(stream.fileno(), 0, size)
    except OSError as error:
        raise StoreError(
            f"{path.parent} has no room for {size} bytes of cached targets: {error.strerror}",
            allowed=f"room in {_SHARED_MEMORY}, or in the folder that TMPDIR names",
        ) from error
