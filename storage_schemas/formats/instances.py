"""The instance table: a row for each instance, as Parquet, and the same as numpy arrays.

Letters: N instances, K keypoints, M images. The table carries the skeleton of its keypoints.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage_schemas.errors import CorruptEntryError, DataError, Remedy, StoreError
from storage_schemas.formats.skeleton import Skeleton
from storage_schemas.paths.local import write_atomic

__all__ = [
    "ImageFacts",
    "Instances",
    "Record",
    "decode_table",
    "encode_table",
    "instances_schema",
    "read_instances",
    "read_skeleton",
    "write_instances",
]

_REBUILD = Remedy("run", kind="instances", force=True)

_VERSION_FIELD = b"odkd_instances"
_VERSION = b"2"
_SKELETON_FIELD = b"odkd_skeleton"
_CHECKSUM_FIELD = b"odkd_skeleton_crc32"


def _list_of(kind: pa.DataType, length: int) -> pa.DataType:
    # The name is given because pyarrow's own for it has changed between versions.
    return pa.list_(pa.field("element", kind), length)


def instances_schema(skeleton: Skeleton) -> pa.Schema:
    """``id`` is the annotation's, ``file_name`` below the image folder, sizes the image's; see ``Instances``."""
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("image_sha256", pa.string(), nullable=False),
            pa.field("image_bytes", pa.int64(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("box", _list_of(pa.float64(), 4), nullable=False),
            pa.field("center", _list_of(pa.float64(), 2), nullable=False),
            pa.field("size", _list_of(pa.float64(), 2), nullable=False),
            pa.field("area", pa.float64(), nullable=False),
            pa.field("keypoints", _list_of(pa.float32(), 3 * skeleton.num_keypoints), nullable=False),
            pa.field("mask_rle", pa.binary()),
            pa.field("holdout", pa.bool_(), nullable=False),
        ],
        metadata={_VERSION_FIELD: _VERSION, _SKELETON_FIELD: skeleton.encode(), _CHECKSUM_FIELD: _checksum(skeleton.encode())},
    )


I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ImageFacts:
    """sha256 in hexadecimal and length in bytes of a picture's file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, eq=False)
class Record:
    """One person, as ``Instances`` holds them, with the name and size of the picture."""

    annotation_id: int
    image_id: int
    file_name: str
    width: int
    height: int
    box_4: F64
    center_2: F64
    size_2: F64
    area: float
    keypoints_K3: F32
    mask_rle: bytes | None
    holdout: bool


@dataclass(frozen=True, eq=False)
class Instances:
    """People, and the pictures that they are in.

    ``box_N4`` is (x, y, w, h) trimmed to the picture, ``center_N2`` and ``size_N2`` (w, h) the padded crop (HRNet's
    scale times 200), ``area_N`` the annotated area, ``keypoints_NK3`` (x, y, v) with v 0, 1 or 2; pixels of the picture.
    ``mask_rle`` holds COCO's compressed run lengths of the picture's size, or null. ``holdout_N``: not to be trained on.
    ``image_N`` points into the pictures ``*_M``; reading and selecting leave only those that are needed, in that order.
    """

    skeleton: Skeleton
    id_N: I64
    image_N: I64
    box_N4: F64
    center_N2: F64
    size_N2: F64
    area_N: F64
    keypoints_NK3: F32
    holdout_N: Bools
    mask_rle: pa.BinaryArray
    image_id_M: I64
    file_name_M: list[str]
    sha256_M: list[str]
    bytes_M: I64
    width_M: I32
    height_M: I32

    @cached_property
    def has_mask_N(self) -> Bools:
        """Whose mask is known."""
        known: Bools = self.mask_rle.is_valid().to_numpy(zero_copy_only=False)
        return known

    @staticmethod
    def from_records(records: Sequence[Record], facts: Mapping[int, ImageFacts], skeleton: Skeleton) -> Instances:
        """A row for each record, in their order; ``facts`` are by image id, ``skeleton`` is that of all records."""
        first_M, image_N = _first_seen(np.array([record.image_id for record in records], np.int64))
        pictures = [records[row] for row in first_M]
        keypoints_N = np.array([record.keypoints_K3 for record in records], np.float32)
        return Instances(
            skeleton=skeleton,
            id_N=np.array([record.annotation_id for record in records], np.int64),
            image_N=image_N,
            box_N4=np.array([record.box_4 for record in records], np.float64).reshape(-1, 4),
            center_N2=np.array([record.center_2 for record in records], np.float64).reshape(-1, 2),
            size_N2=np.array([record.size_2 for record in records], np.float64).reshape(-1, 2),
            area_N=np.array([record.area for record in records], np.float64),
            keypoints_NK3=keypoints_N.reshape(-1, skeleton.num_keypoints, 3),
            holdout_N=np.array([record.holdout for record in records], np.bool_),
            mask_rle=pa.array([record.mask_rle for record in records], pa.binary()),
            image_id_M=np.array([picture.image_id for picture in pictures], np.int64),
            file_name_M=[picture.file_name for picture in pictures],
            sha256_M=[facts[picture.image_id].sha256 for picture in pictures],
            bytes_M=np.array([facts[picture.image_id].bytes for picture in pictures], np.int64),
            width_M=np.array([picture.width for picture in pictures], np.int32),
            height_M=np.array([picture.height for picture in pictures], np.int32),
        )

    def select(self, rows: Bools | I64) -> Instances:
        """The people of a mask [N], or of row numbers in their order, with only the pictures that they need."""
        chosen = np.arange(len(self.id_N))[rows]
        image_N = self.image_N[chosen]
        first_M, new_image_N = _first_seen(image_N)
        kept_M = image_N[first_M]
        return Instances(
            skeleton=self.skeleton,
            id_N=self.id_N[chosen],
            image_N=new_image_N,
            box_N4=self.box_N4[chosen],
            center_N2=self.center_N2[chosen],
            size_N2=self.size_N2[chosen],
            area_N=self.area_N[chosen],
            keypoints_NK3=self.keypoints_NK3[chosen],
            holdout_N=self.holdout_N[chosen],
            mask_rle=self.mask_rle.take(pa.array(chosen, pa.int64())),
            image_id_M=self.image_id_M[kept_M],
            file_name_M=[self.file_name_M[image] for image in kept_M],
            sha256_M=[self.sha256_M[image] for image in kept_M],
            bytes_M=self.bytes_M[kept_M],
            width_M=self.width_M[kept_M],
            height_M=self.height_M[kept_M],
        )


def encode_table(instances: Instances) -> pa.Table:
    """The table of ``instances_schema``."""
    schema = instances_schema(instances.skeleton)
    image_N = instances.image_N
    columns = {
        "id": instances.id_N,
        "image_id": instances.image_id_M[image_N],
        "file_name": [instances.file_name_M[image] for image in image_N],
        "image_sha256": [instances.sha256_M[image] for image in image_N],
        "image_bytes": instances.bytes_M[image_N],
        "width": instances.width_M[image_N],
        "height": instances.height_M[image_N],
        "box": _as_lists(schema.field("box"), instances.box_N4),
        "center": _as_lists(schema.field("center"), instances.center_N2),
        "size": _as_lists(schema.field("size"), instances.size_N2),
        "area": instances.area_N,
        "keypoints": _as_lists(schema.field("keypoints"), instances.keypoints_NK3),
        "mask_rle": instances.mask_rle,
        "holdout": instances.holdout_N,
    }
    return pa.table(columns, schema=schema)


def decode_table(table: pa.Table) -> Instances:
    """The people of a table that ``encode_table`` made.

    Raises:
        StoreError: the table is of another version of this schema.
        CorruptEntryError: it says this version and has other columns or gaps.
    """
    skeleton = _skeleton_of(table.schema)
    _check_columns(table, instances_schema(skeleton))
    first_M, image_N = _first_seen(_numbers(table, "image_id"))
    pictures = table.select(["image_id", "file_name", "image_sha256", "image_bytes", "width", "height"]).take(first_M)
    return Instances(
        skeleton=skeleton,
        id_N=_numbers(table, "id"),
        image_N=image_N,
        box_N4=_from_lists(table, "box").reshape(-1, 4),
        center_N2=_from_lists(table, "center").reshape(-1, 2),
        size_N2=_from_lists(table, "size").reshape(-1, 2),
        area_N=_numbers(table, "area"),
        keypoints_NK3=_from_lists(table, "keypoints").reshape(-1, skeleton.num_keypoints, 3),
        holdout_N=_numbers(table, "holdout"),
        mask_rle=table.column("mask_rle").combine_chunks(),
        image_id_M=_numbers(pictures, "image_id"),
        file_name_M=pictures.column("file_name").to_pylist(),
        sha256_M=pictures.column("image_sha256").to_pylist(),
        bytes_M=_numbers(pictures, "image_bytes"),
        width_M=_numbers(pictures, "width"),
        height_M=_numbers(pictures, "height"),
    )


def write_instances(path: Path, instances: Instances) -> None:
    """Write the table as Parquet (zstd, a checksum on each page) under ``path``, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(encode_table(instances), sink, compression="zstd", write_page_checksum=True)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_instances(path: Path) -> Instances:
    """The people of the table at ``path``.

    Raises:
        StoreError: the table is of another version of this schema.
        CorruptEntryError: the file is missing, damaged or not such a table.
    """
    try:
        return decode_table(pq.ParquetFile(path, page_checksum_verification=True).read())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptEntryError(f"The instance table {path} cannot be read: {error}", remedy=_REBUILD) from error


def read_skeleton(path: Path) -> Skeleton:
    """The skeleton of the table at ``path``, without its rows; raises as ``read_instances``."""
    try:
        return _skeleton_of(pq.read_schema(path))
    except (pa.ArrowException, OSError) as error:
        raise CorruptEntryError(f"The instance table {path} cannot be read: {error}", remedy=_REBUILD) from error


def _skeleton_of(schema: pa.Schema) -> Skeleton:
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_FIELD, b"none")
    if version != _VERSION:
        raise StoreError(
            f"The instance table is of schema version {version.decode(errors='replace')}",
            allowed=f"version {_VERSION.decode()}, which this odkd reads and writes",
            remedy=_REBUILD,
        )
    data = metadata.get(_SKELETON_FIELD, b"")
    if metadata.get(_CHECKSUM_FIELD) != _checksum(data):
        raise CorruptEntryError("The skeleton of the instance table is damaged", remedy=_REBUILD)
    try:
        return Skeleton.decode(data)
    except DataError as error:
        raise CorruptEntryError(f"The instance table has no skeleton: {error.seen}", remedy=_REBUILD) from error


def _checksum(data: bytes) -> bytes:
    # Parquet has checksums for pages, but none for the metadata of the schema.
    return f"{zlib.crc32(data):08x}".encode()


def _check_columns(table: pa.Table, schema: pa.Schema) -> None:
    if not table.schema.equals(schema):
        raise CorruptEntryError(f"The instance table has other columns than its version: {', '.join(table.column_names)}")
    gaps = [name for name in table.column_names if name != "mask_rle" and table.column(name).null_count]
    if gaps:
        raise CorruptEntryError(f"The instance table has rows without {', '.join(gaps)}")


def _first_seen(values_N: I64) -> tuple[I64, I64]:
    """The rows at which each value comes first, in that order, and for each row the position of its value among them."""
    _, first, inverse = np.unique(values_N, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def _as_lists(field: pa.Field, values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Rows of an array as the lists of a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=field.type)


def _from_lists(table: pa.Table, name: str) -> npt.NDArray[Any]:
    flat: npt.NDArray[Any] = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    column: npt.NDArray[Any] = table.column(name).to_numpy()
    return column
