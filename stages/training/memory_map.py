"""Cached arrays as memory maps: each array is decoded once, in order, into a raw file that all workers of a node share.

Random reads from Zarr reach about 2,000 rows a second, which is too slow for training; a map has no such limit.
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

    Each process that writes or reads the file holds a shared lock on it. The kernel releases the lock of a killed process, so
    the last process to close its map can delete the file. A complete file of a killed run is reused by the next map of the
    same array; all other files without a lock are deleted before a map is made. File names contain the machine's boot id,
    because a file on disk can lose its content when the power fails.

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
        """Close the map; the last process to close it deletes the file. Arrays taken from ``rows`` stay readable."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink_held(self._path, self._stream)
        except BlockingIOError:
            log.debug("%s is still used by another process", self._path)
        finally:
            self._stream.close()


def _boot_id() -> str:
    """The kernel's boot id, which changes with every start of the machine; empty on systems without one."""
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
            # Every user can create a folder here: never read from a folder that another user owns.
            if folder.stat(follow_symlinks=False).st_uid == os.getuid():
                found.append(folder)
    return found


def _remove_leftovers(*, keep: str) -> None:
    """Delete the files that no process has locked, complete or partial, except ``keep``."""
    for folder in _folders():
        for path in (*folder.glob("*.raw"), *folder.glob("*.partial")):
            if path.name != keep:
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _unlink_held(path, stream)
        log.info("Deleted %s, which a killed run had left", path)


def _unlink_held(path: Path, stream: BinaryIO) -> None:
    # Between opening and locking, another process may have deleted the file, and a third created one of the same name.
    if _is_at(path, stream):
        path.unlink(missing_ok=True)


def _is_at(path: Path, stream: BinaryIO) -> bool:
    """Whether the open file is still the file at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


def _existing(file: str) -> tuple[Path, BinaryIO] | None:
    """The file that another process has decoded, locked; None if there is none."""
    for folder in _folders():
        try:
            stream = (folder / file).open("rb")
        except FileNotFoundError:
            continue
        fcntl.flock(stream, fcntl.LOCK_SH)
        if _is_at(folder / file, stream):
            return folder / file, stream
        # Its last user deleted it before it was locked here.
        stream.close()
    return None


def _folder_with_room(size: int, what: str) -> Path:
    """The folder for ``size`` bytes: shared memory, or the disk if that is too small (in a container often 64 MB)."""
    folders = _folders()
    if not folders:
        raise StoreError(
            f"Neither {_SHARED_MEMORY} nor {tempfile.gettempdir()} is writable", allowed="TMPDIR=FOLDER with a writable folder"
        )
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free > size * _SPARE:
            return folder
        log.warning("%s has %d MB free, too little for the %d MB of %s", folder.parent, free >> 20, size >> 20, what)
    return folders[-1]


def _decode(folder: Path, name: str, file: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Path, BinaryIO]:
    """Decode the array into a file with a unique name, then rename it to the name that other processes look for."""
    size = int(np.prod(shape)) * dtype.itemsize
    path = _folder_with_room(size, f"{folder}/{name}") / file
    partial, stream = _new_partial(path)
    try:
        _reserve(stream, size, path)
        rows = np.memmap(stream, dtype=dtype, mode="r+", shape=shape)
        block = rows_per_block(shape[0])
        for start in range(0, shape[0], block):
            rows[start : start + block] = read_rows(folder, name, start, start + block)
        # A file with this name must be complete, also after a power failure, so its content is synced before the rename.
        rows.flush()
        os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        stream.close()
        partial.unlink(missing_ok=True)
        raise
    return path, stream


def _new_partial(path: Path) -> tuple[Path, BinaryIO]:
    """Create an empty file with a unique name beside ``path``, and lock it."""
    while True:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        stream = partial.open("x+b")
        fcntl.flock(stream, fcntl.LOCK_SH)
        if _is_at(partial, stream):
            return partial, stream
        # Another process took the file for a leftover before it was locked.
        stream.close()


def _reserve(stream: BinaryIO, size: int, path: Path) -> None:
    # Without room, writing to the map would kill the process with SIGBUS and no message.
    try:
        os.posix_fallocate(stream.fileno(), 0, size)
    except OSError as error:
        raise StoreError(
            f"{path.parent} has no room for {size} bytes of cached targets: {error.strerror}",
            allowed=f"room in {_SHARED_MEMORY}, or in the folder that TMPDIR names",
        ) from error
