"""Windows on disk: parts of images as JPEGs, many to a file (a shard), and a Parquet index that locates each.

A window is cut without scaling, so a crop of it takes the same pixels as a crop of the image. Shape letter: N windows.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.errors import CorruptEntryError
from storage_schemas.formats.parquet import TableFormat
from storage_schemas.paths.local import LocalPath

__all__ = ["WINDOWS_INDEX", "StoredWindow", "WindowShards", "write_index", "write_shard"]

WINDOWS_INDEX = "windows.parquet"
"""The name of the index; the shards lie beside it."""

_FORMAT = TableFormat("windows", version=1, kind="instances")
_NUMBERS = ("id", "left", "top", "width", "height", "offset", "bytes", "crc32")
_SCHEMA = _FORMAT.schema({**dict.fromkeys(_NUMBERS, pa.int64()), "shard": pa.string()})

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredWindow:
    """One row of the index: the annotation's ``id``, the window in image pixels, and where in ``shard`` its JPEG is."""

    id: int
    left: int
    top: int
    width: int
    height: int
    shard: str
    offset: int
    bytes: int
    crc32: int


def write_shard(folder: Path, name: str, jpegs: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Write JPEGs one after another into the file ``name``; returns the offset, length and checksum of each."""
    LocalPath(folder / name).write_atomic(b"".join(jpegs))
    starts = np.cumsum([0, *map(len, jpegs)]).tolist()
    return [(start, len(jpeg), zlib.crc32(jpeg)) for start, jpeg in zip(starts, jpegs, strict=False)]


def write_index(folder: Path, windows: Sequence[StoredWindow]) -> None:
    """Write the index of ``windows`` into ``folder`` atomically."""
    _FORMAT.write(folder / WINDOWS_INDEX, pa.Table.from_pylist([vars(window) for window in windows], schema=_SCHEMA))


class WindowShards:
    """The windows in ``folder``, open for any number of threads.

    Raises:
        StoreError: the index is of another version.
        CorruptEntryError: a file is missing, damaged or another table.
    """

    def __init__(self, folder: Path) -> None:
        table = _FORMAT.read(folder / WINDOWS_INDEX, lambda _: _SCHEMA)
        self._folder = folder
        self._id_N: I64 = table["id"].to_numpy()
        self._where_N3: I64 = np.stack([table[name].to_numpy() for name in ("offset", "bytes", "crc32")], axis=-1)
        self.window_N4: I64 = np.stack([table[name].to_numpy() for name in ("left", "top", "width", "height")], axis=-1)
        """Left, top, width and height in image pixels."""
        shards = table["shard"].combine_chunks().dictionary_encode()
        self._shard_N: list[int] = shards.indices.to_pylist()
        self._shards: list[str] = shards.dictionary.to_pylist()
        self._files: list[int] = []
        for name in self._shards:
            try:
                self._files.append(os.open(folder / name, os.O_RDONLY))
            except OSError as error:
                self.close()
                raise self._corrupt(name, error.strerror or str(error)) from error

    def rows_of(self, ids: I64) -> I64:
        """For each annotation id the row of its window, or -1 if it has none."""
        rows: I64 = pc.index_in(pa.array(ids), value_set=pa.array(self._id_N)).fill_null(-1).to_numpy().astype(np.int64)
        return rows

    def read(self, row: int) -> bytes:
        """The JPEG of a row; raises ``CorruptEntryError`` if it differs from the bytes written."""
        shard, name = self._shard_N[row], self._shards[self._shard_N[row]]
        offset, size, crc32 = self._where_N3[row].tolist()
        try:
            data = os.pread(self._files[shard], size, offset)
        except OSError as error:
            raise self._corrupt(name, error.strerror or str(error)) from error
        if len(data) != size or zlib.crc32(data) != crc32:
            raise self._corrupt(name, f"the window of instance {self._id_N[row]} differs from the bytes written")
        return data

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def _corrupt(self, name: str, reason: str) -> CorruptEntryError:
        return _FORMAT.corrupt(f"The windows {self._folder / name} cannot be used: {reason}", allowed="the bytes written")
