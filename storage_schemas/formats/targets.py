"""The Zarr layout of cached views and targets: sharded arrays of packed bits, written in blocks of rows.

Shape letters: N instances, K keypoints, H W heatmap pixels, P packed bytes (``K*H*W/8`` for targets, ``H*W/8`` for masks).

``views/<key>``    affine float32 [N, 2, 3], flip bool [N], mask uint8 [N, P], has_mask bool [N]
``targets/<key>``  bits uint8 [N, P], peak float16 [N, K]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from storage_schemas.errors import CorruptEntryError

__all__ = [
    "ArraySpec",
    "array_facts",
    "block_files",
    "create_arrays",
    "metadata_files",
    "pack_bits",
    "read_rows",
    "rows_per_block",
    "target_arrays",
    "unpack_bits",
    "view_arrays",
    "write_block",
]

_CHUNK_ROWS = 64
_MIN_BLOCK_ROWS = 256
_MAX_BLOCK_ROWS = 16_384
_BLOCKS = 64


def pack_bits(bits_Nx: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pack booleans [N, ...] to uint8 [N, P], eight to a byte, the first in the highest bit."""
    return np.packbits(bits_Nx.reshape(len(bits_Nx), -1), axis=1)


def unpack_bits(packed_NP: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Unpack uint8 [N, P] to booleans [N, *shape]; raises ``CorruptEntryError`` if the rows hold another number of bits."""
    count = math.prod(shape)
    if packed_NP.shape[1] * 8 != count:
        raise CorruptEntryError(f"Rows of {packed_NP.shape[1]} bytes cannot hold {count} bits", allowed=f"{count // 8} bytes")
    return np.unpackbits(packed_NP, axis=1).view(np.bool_).reshape(len(packed_NP), *shape)


def rows_per_block(num_rows: int) -> int:
    """The rows of one block; a task computes one block, which is one shard of each array.

    A 64th of the rows, rounded up to whole chunks, at least 256 and at most 16,384. It depends on the number of rows alone, so
    any cluster writes the same files.
    """
    chunks = math.ceil(num_rows / _BLOCKS / _CHUNK_ROWS)
    return min(max(chunks * _CHUNK_ROWS, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)


@dataclass(frozen=True)
class ArraySpec:
    """One array of an entry: its name, the shape of a row and its type."""

    name: str
    row: tuple[int, ...]
    dtype: str


def view_arrays(heatmap_wh: tuple[int, int]) -> tuple[ArraySpec, ...]:
    """The arrays of a view: its affine and flip, and the mask of the instance at heatmap size (W, H)."""
    return (
        ArraySpec("affine", (2, 3), "float32"),
        ArraySpec("flip", (), "bool"),
        ArraySpec("mask", (math.prod(heatmap_wh) // 8,), "uint8"),
        ArraySpec("has_mask", (), "bool"),
    )


def target_arrays(heatmap_wh: tuple[int, int], num_keypoints: int) -> tuple[ArraySpec, ...]:
    """The arrays of one teacher's targets of one view, for heatmaps of (W, H)."""
    bits = num_keypoints * math.prod(heatmap_wh)
    return (ArraySpec("bits", (bits // 8,), "uint8"), ArraySpec("peak", (num_keypoints,), "float16"))


def create_arrays(folder: Path, specs: tuple[ArraySpec, ...], num_rows: int) -> None:
    """Write the arrays' metadata below ``folder``, without data; does nothing if it exists."""
    missing = [name for name in metadata_files(specs) if not (folder / name).exists()]
    if not missing:
        return
    block = rows_per_block(num_rows)
    folder.mkdir(parents=True, exist_ok=True)
    # Several processes of a node may call this at the same time, and Zarr refuses to create an array twice.
    with TemporaryDirectory(dir=folder) as scratch:
        for spec in specs:
            zarr.create_array(
                LocalStore(scratch),
                name=spec.name,
                shape=(num_rows, *spec.row),
                dtype=spec.dtype,
                chunks=(_CHUNK_ROWS, *spec.row),
                shards=(block, *spec.row),
                filters=None,
                compressors=(ZstdCodec(level=1), Crc32cCodec()),
            )
        for name in missing:
            (folder / name).parent.mkdir(exist_ok=True)
            (Path(scratch) / name).replace(folder / name)


def metadata_files(specs: tuple[ArraySpec, ...]) -> list[str]:
    """The names, below the entry's folder, of the files that ``create_arrays`` writes."""
    return ["zarr.json", *(f"{spec.name}/zarr.json" for spec in specs)]


def block_files(specs: tuple[ArraySpec, ...], block: int) -> list[str]:
    """The names, below the entry's folder, of the shards of one block."""
    return [f"{spec.name}/c/{block}" + "/0" * len(spec.row) for spec in specs]


def array_facts(folder: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array."""
    array = zarr.open_array(LocalStore(folder, read_only=True), path=name, mode="r")
    return tuple(array.shape), np.dtype(array.dtype)


def write_block(folder: Path, block: int, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write one block of rows of every array; no other writer may touch the same block."""
    # By default Zarr does not write chunks of zeros, which a reader cannot distinguish from lost ones. (open_array accepts a
    # ``config``, but ignores it.)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, rows in arrays.items():
            array = zarr.open_array(LocalStore(folder), path=name, mode="r+")
            start = block * rows_per_block(array.shape[0])
            array[start : start + len(rows)] = rows


def read_rows(folder: Path, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.generic]:
    """Rows ``start`` to ``stop`` of an array; raises ``CorruptEntryError`` if a chunk does not decode or match its checksum.

    Zarr reads a missing or empty shard as zeros without an error: verify the entry against its manifest first.
    """
    try:
        array = zarr.open_array(LocalStore(folder, read_only=True), path=name, mode="r")
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise CorruptEntryError(f"Array '{name}' in {folder} cannot be read: {error}") from error
