"""Other layouts with the same content: one pickle for each instance, records of fixed size, dense heatmaps.

Written for this benchmark from the descriptions of FKD (Shen and Xing, arXiv 2112.01528: pickles with the crop's parameters and
the soft label) and TinyViT (microsoft/Cream, TinyViT/docs/SAVE_TEACHER_LOGITS.md: one file of records with a seed and the
teacher's output). They store class scores, quantized or only the largest; here the records hold packed bits, uncompressed.
No library compresses each record: that layout shows the effect of compression alone.

Shape letters: N instances, B of one batch, K joints, H W heatmap pixels, P packed bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from stages.data.views import Views
from storage_schemas.formats.targets import read_rows, rows_per_block
from storage_schemas.store.store import Entry

__all__ = [
    "CAVEAT",
    "COMPRESSED",
    "DENSE",
    "PICKLES",
    "RECORDS",
    "ViewTargets",
    "as_records",
    "compressed",
    "pickled",
    "read_compressed",
    "read_pickles",
    "read_records",
    "read_view_targets",
    "write_compressed",
    "write_dense",
    "write_pickles",
]

PICKLES = "one pickle for each instance, bits uncompressed (FKD's layout)"
RECORDS = "fixed records, bits uncompressed (TinyViT's layout)"
COMPRESSED = "records, each compressed by zstd level 1"
CAVEAT = "FKD's and TinyViT's layouts are our own code, and hold our bits uncompressed in place of their class scores"
DENSE = "heat"
"""The name of the array of dense heatmaps."""

_ZSTD = pa.Codec("zstd", compression_level=1)

U8 = npt.NDArray[np.uint8]
F16 = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]


@dataclass(frozen=True)
class ViewTargets:
    """The crops of one view, and one teacher's targets of them."""

    views: Views
    bits_NP: U8
    peak_NK: F16


def read_view_targets(view: Entry, targets: Entry, *, stop: int | None = None) -> ViewTargets:
    """Read the crops and the targets of all instances, or of those before row ``stop``."""
    affine_N23 = read_rows(view.fetch(), "affine", 0, stop).astype(np.float32, copy=False)
    flip_N = read_rows(view.fetch(), "flip", 0, stop).astype(np.bool_, copy=False)
    bits_NP = read_rows(targets.fetch(), "bits", 0, stop).astype(np.uint8, copy=False)
    peak_NK = read_rows(targets.fetch(), "peak", 0, stop).astype(np.float16, copy=False)
    return ViewTargets(Views(affine_N23, flip_N), bits_NP, peak_NK)


def pickled(targets: ViewTargets, row: int) -> bytes:
    """FKD's layout: the crop, the flip and the targets of one instance."""
    views = targets.views
    return pickle.dumps(
        (views.affine_N23[row], bool(views.flip_N[row]), targets.bits_NP[row], targets.peak_NK[row]), protocol=5
    )


def write_pickles(folder: Path, targets: ViewTargets) -> None:
    """Write one file for each instance."""
    folder.mkdir()
    for row in range(len(targets.bits_NP)):
        (folder / str(row)).write_bytes(pickled(targets, row))


def read_pickles(folder: Path, rows_B: Rows) -> U8:
    """``bits_BP`` of some instances."""
    # Safe: the benchmark wrote these files itself.
    read = [pickle.loads((folder / str(row)).read_bytes()) for row in rows_B]
    return np.stack([bits_P for _, _, bits_P, _ in read])


def as_records(targets: ViewTargets) -> Records:
    """TinyViT's layout: the seed of the crop, then the targets, with a fixed size."""
    fields = [("seed", "<i4"), ("bits", "u1", targets.bits_NP.shape[1:]), ("peak", "<f2", targets.peak_NK.shape[1:])]
    records_N = np.zeros(len(targets.bits_NP), np.dtype(fields))
    records_N["seed"], records_N["bits"], records_N["peak"] = np.arange(len(records_N)), targets.bits_NP, targets.peak_NK
    return records_N


def read_records(stream: BinaryIO, record: np.dtype[Any], rows_B: Rows) -> U8:
    """``bits_BP`` of some instances; ``stream`` is unbuffered, since a buffer would read more than a record."""
    parts = []
    for row in rows_B.tolist():
        stream.seek(row * record.itemsize)
        parts.append(stream.read(record.itemsize))
    return _bits(parts, record)


def compressed(records_N: Records) -> list[bytes]:
    """Compress each record separately."""
    return [_ZSTD.compress(record.tobytes(), asbytes=True) for record in records_N]


def write_compressed(path: Path, records_N: Records) -> list[int]:
    """Write all records to one file; returns the start of each record, and the end of the file."""
    parts = compressed(records_N)
    path.write_bytes(b"".join(parts))
    return [0, *np.cumsum([len(part) for part in parts]).tolist()]


def read_compressed(stream: BinaryIO, starts: Sequence[int], record: np.dtype[Any], rows_B: Rows) -> U8:
    """As ``read_records``."""
    parts = []
    for row in rows_B.tolist():
        stream.seek(starts[row])
        part = stream.read(starts[row + 1] - starts[row])
        parts.append(_ZSTD.decompress(part, decompressed_size=record.itemsize, asbytes=True))
    return _bits(parts, record)


def _bits(parts: Sequence[bytes], record: np.dtype[Any]) -> U8:
    return np.ascontiguousarray(np.frombuffer(b"".join(parts), record)["bits"])


def write_dense(folder: Path, num: int, heat_of: Callable[[int, int], npt.NDArray[np.float32]]) -> zarr.Array[Any]:
    """float16 heatmaps [N, K, H, W] in our shards and with our codecs; ``heat_of(start, stop)`` gives some rows.

    A chunk holds one instance, so that a random one is decoded alone.
    """
    size, row = rows_per_block(num), heat_of(0, 1).shape[1:]
    array = zarr.create_array(
        LocalStore(folder),
        name=DENSE,
        shape=(num, *row),
        dtype="float16",
        chunks=(1, *row),
        shards=(size, *row),
        filters=None,
        compressors=(ZstdCodec(level=1), Crc32cCodec()),
    )
    for start in range(0, num, size):
        stop = min(start + size, num)
        array[start:stop] = heat_of(start, stop).astype(np.float16)
    return array
