"""How others keep what a teacher said, with the same content: a pickle a person, records of one size, dense heatmaps.

Written for this benchmark after the descriptions of FKD (Shen and Xing, arXiv 2112.01528: pickles, what was drawn in front of
the soft label) and TinyViT (microsoft/Cream, TinyViT/docs/SAVE_TEACHER_LOGITS.md: one file, a seed in front of what the teacher
said). Theirs are class scores, quantized or cut to the largest; in place of those stand our packed bits, which is their
best case: float16 heatmaps would be sixteen times as large.

Shape letters: N people, B those of one batch, K joints, H W heatmap pixels, P packed bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from stages.data.views import Views
from storage_schemas.entry import Entry
from storage_schemas.targets import read_rows, rows_per_block

__all__ = [
    "Said",
    "pickled",
    "read_pickles",
    "read_records",
    "read_said",
    "record_type",
    "write_dense",
    "write_pickles",
    "write_records",
]

U8 = npt.NDArray[np.uint8]
F16 = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Said:
    """What one teacher said about the crops of one view."""

    views: Views
    bits_NP: U8
    peak_NK: F16


def read_said(view: Entry, targets: Entry, *, stop: int | None = None) -> Said:
    """What stands in two of our entries about all people, or about those before row ``stop``."""
    affine_N23 = read_rows(view.folder, "affine", 0, stop).astype(np.float32, copy=False)
    flip_N = read_rows(view.folder, "flip", 0, stop).astype(np.bool_, copy=False)
    bits_NP = read_rows(targets.folder, "bits", 0, stop).astype(np.uint8, copy=False)
    peak_NK = read_rows(targets.folder, "peak", 0, stop).astype(np.float16, copy=False)
    return Said(Views(affine_N23, flip_N), bits_NP, peak_NK)


def pickled(said: Said, row: int) -> bytes:
    """FKD's way: the crop, the flip and what the teacher said about one person."""
    views = said.views
    return pickle.dumps((views.affine_N23[row], bool(views.flip_N[row]), said.bits_NP[row], said.peak_NK[row]), protocol=5)


def write_pickles(folder: Path, said: Said) -> None:
    """A file a person."""
    folder.mkdir()
    for row in range(len(said.bits_NP)):
        (folder / str(row)).write_bytes(pickled(said, row))


def read_pickles(folder: Path, rows_B: Rows) -> tuple[U8, F16]:
    """``bits_BP`` and ``peak_BK`` of some people."""
    # The benchmark has written these files itself: nobody else's pickles are ever opened.
    read = [pickle.loads((folder / str(row)).read_bytes()) for row in rows_B]
    return np.stack([bits_P for _, _, bits_P, _ in read]), np.stack([peak_K for *_, peak_K in read])


def record_type(said: Said) -> np.dtype[Any]:
    """TinyViT's way: the seed of what was drawn, then what the teacher said, always as long."""
    return np.dtype([("seed", "<i4"), ("bits", "u1", said.bits_NP.shape[1:]), ("peak", "<f2", said.peak_NK.shape[1:])])


def write_records(path: Path, said: Said) -> None:
    """All people in one file."""
    records_N = np.zeros(len(said.bits_NP), record_type(said))
    records_N["seed"], records_N["bits"], records_N["peak"] = np.arange(len(records_N)), said.bits_NP, said.peak_NK
    records_N.tofile(path)


def read_records(stream: BinaryIO, record: np.dtype[Any], rows_B: Rows) -> tuple[U8, F16]:
    """``bits_BP`` and ``peak_BK`` of some people; ``stream`` has no buffer, which would read more than a record."""
    parts = []
    for row in rows_B:
        stream.seek(int(row) * record.itemsize)
        parts.append(stream.read(record.itemsize))
    records_B = np.frombuffer(b"".join(parts), record)
    return np.ascontiguousarray(records_B["bits"]), np.ascontiguousarray(records_B["peak"])


def write_dense(folder: Path, num: int, heat_of: Callable[[int, int], npt.NDArray[np.float32]]) -> zarr.Array[Any]:
    """float16 heatmaps [N, K, H, W] in our shards and with our codecs; ``heat_of(start, stop)`` gives some rows.

    A chunk holds one person, so that a random one is decoded alone.
    """
    size, row = rows_per_block(num), heat_of(0, 1).shape[1:]
    array = zarr.create_array(
        LocalStore(folder),
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
