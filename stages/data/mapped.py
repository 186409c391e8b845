"""Cached arrays as memory maps: decoded once, in order, into a raw file that all workers of a node share.

Random batches straight from Zarr are limited by its cost a request (about 2,000 rows a second); from a map they are not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage_schemas.targets import array_facts, read_rows, rows_per_block

__all__ = ["MappedArray"]

_SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.25


class MappedArray:
    """One array of an entry as a read-only map; ``close`` removes the file when this process made it."""

    def __init__(self, folder: Path, name: str) -> None:
        shape, dtype = array_facts(folder, name)
        size = int(np.prod(shape)) * dtype.itemsize
        self._path = _place(size) / f"{hashlib.sha256(f'{folder}/{name}'.encode()).hexdigest()[:16]}.raw"
        self._owner = not self._path.exists()
        if self._owner:
            _decode(folder, name, self._path, shape, dtype)
        self.rows: npt.NDArray[Any] = np.memmap(self._path, dtype=dtype, mode="r", shape=shape)

    def close(self) -> None:
        """Give the map back; the maker of the file removes it (others that have it mapped keep reading)."""
        if self._owner:
            self._path.unlink(missing_ok=True)


def _place(size: int) -> Path:
    """A private folder of this user in shared memory, or on disk where that is too small (64 MB in a container by default)."""
    for root in (_SHARED_MEMORY, Path(tempfile.gettempdir())):
        if root.is_dir() and os.access(root, os.W_OK) and shutil.disk_usage(root).free > size * _SPARE:
            break
    folder = root / f"odkd-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _decode(folder: Path, name: str, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    rows = np.memmap(partial, dtype=dtype, mode="w+", shape=shape)
    block = rows_per_block(shape[0])
    for start in range(0, shape[0], block):
        rows[start : start + block] = read_rows(folder, name, start, start + block)
    del rows
    partial.replace(path)
