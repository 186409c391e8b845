"""Stored crops on disk: windows of pictures as JPEGs, many to a file, and a Parquet index that says where each lies.

A window is cut out of the picture as it is, without scaling, so that a crop of it takes the same pixels as one of the picture.
Letters: N people who have one, w h pixels of a window.
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
import pyarrow.parquet as pq

from storage_schemas.errors import CorruptEntryError, Remedy, StoreError
from storage_schemas.paths.local import write_atomic

__all__ = ["CROPS_INDEX", "CROPS_SCHEMA", "CropIndex", "CropShards", "StoredCrop", "read_index", "write_index", "write_shard"]

_REBUILD = Remedy("run", kind="instances", force=True)

CROPS_INDEX = "crops.parquet"
"""The name of the index; the shards lie beside it."""

_VERSION_FIELD = b"odkd_crops"
_VERSION = b"1"

CROPS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("left", pa.int32(), nullable=False),
        pa.field("top", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ],
    metadata={_VERSION_FIELD: _VERSION},
)
"""``id`` is the annotation's, the window in pixels of the picture; the JPEG is ``bytes`` of ``shard`` from ``offset`` on."""

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredCrop:
    """One row of the index."""

    id: int
    left: int
    top: int
    width: int
    height: int
    shard: str
    offset: int
    bytes: int
    crc32: int


@dataclass(frozen=True, eq=False)
class CropIndex:
    """Where the stored crops lie; not everybody has one. ``window_N4``: left, top, width, height in the picture's pixels."""

    id_N: I64
    window_N4: I64
    shard_N: I64
    """Positions in ``shards``."""
    offset_N: I64
    bytes_N: I64
    crc32_N: I64
    shards: list[str]

    def rows_of(self, ids: I64) -> I64:
        """For each of the people ``ids`` the row of their crop, or -1."""
        if not len(self.id_N):
            return np.full(len(ids), -1)
        order_N = np.argsort(self.id_N)
        found = order_N[np.minimum(np.searchsorted(self.id_N, ids, sorter=order_N), len(order_N) - 1)]
        return np.where(self.id_N[found] == ids, found, -1)


def write_shard(folder: Path, name: str, jpegs: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Write JPEGs one behind the other as the file ``name``; the offset, length and checksum of each."""
    write_atomic(folder / name, b"".join(jpegs))
    starts = np.cumsum([0, *map(len, jpegs)]).tolist()
    return [(start, len(jpeg), zlib.crc32(jpeg)) for start, jpeg in zip(starts, jpegs, strict=False)]


def write_index(folder: Path, crops: Sequence[StoredCrop]) -> None:
    """Write the index of ``crops`` into ``folder`` (zstd, a checksum on each page), whole or not at all."""
    columns = {name: [getattr(crop, name) for crop in crops] for name in CROPS_SCHEMA.names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=CROPS_SCHEMA), sink, compression="zstd", write_page_checksum=True)
    write_atomic(folder / CROPS_INDEX, sink.getvalue().to_pybytes())


def read_index(folder: Path) -> CropIndex:
    """The index in ``folder``.

    Raises:
        StoreError: it is of another version.
        CorruptEntryError: the file is missing, damaged or not such an index.
    """
    path = folder / CROPS_INDEX
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        version = (table.schema.metadata or {}).get(_VERSION_FIELD, b"none")
        if version != _VERSION:
            raise StoreError(
                f"The stored crops {path} are of version {version.decode(errors='replace')}",
                allowed=f"version {_VERSION.decode()}, which this odkd reads and writes",
                remedy=_REBUILD,
            )
        if not table.schema.equals(CROPS_SCHEMA):
            raise CorruptEntryError(f"{path} has other columns than its version: {', '.join(table.column_names)}")
        return _decode(table)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptEntryError(f"The stored crops {path} cannot be read: {error}", remedy=_REBUILD) from error


def _decode(table: pa.Table) -> CropIndex:
    def numbers(name: str) -> I64:
        column: I64 = table.column(name).to_numpy().astype(np.int64)
        return column

    shards = table.column("shard").combine_chunks().dictionary_encode()
    return CropIndex(
        id_N=numbers("id"),
        window_N4=np.stack([numbers(name) for name in ("left", "top", "width", "height")], axis=-1),
        shard_N=shards.indices.to_numpy().astype(np.int64),
        offset_N=numbers("offset"),
        bytes_N=numbers("bytes"),
        crc32_N=numbers("crc32"),
        shards=shards.dictionary.to_pylist(),
    )


class CropShards:
    """The files of the stored crops in ``folder``, open for any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.index = read_index(folder)
        self._files: list[int] = []
        for name in self.index.shards:
            try:
                self._files.append(os.open(folder / name, os.O_RDONLY))
            except OSError as error:
                self.close()
                raise self._corrupt(name, error.strerror or str(error)) from error

    def read(self, row: int) -> bytes:
        """The JPEG of a row of the index.

        Raises:
            CorruptEntryError: it is not as it was written.
        """
        index = self.index
        shard, size = int(index.shard_N[row]), int(index.bytes_N[row])
        try:
            data = os.pread(self._files[shard], size, int(index.offset_N[row]))
        except OSError as error:
            raise self._corrupt(index.shards[shard], error.strerror or str(error)) from error
        if len(data) != size or zlib.crc32(data) != index.crc32_N[row]:
            raise self._corrupt(index.shards[shard], f"the crop of person {index.id_N[row]} is not as it was written")
        return data

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def _corrupt(self, name: str, reason: str) -> CorruptEntryError:
        return CorruptEntryError(
            f"The stored crops {self._folder / name} cannot be used: {reason}",
            allowed="the files as they were written",
            remedy=_REBUILD,
        )
