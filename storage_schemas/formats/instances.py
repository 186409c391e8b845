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

from storage_schemas.errors import DataError
from storage_schemas.formats.parquet import TableFormat, from_lists, list_type, table_of
from storage_schemas.formats.skeleton import Skeleton
from storage_schemas.paths.facts import FileFacts

__all__ = [
    "Instances",
    "Record",
    "decode_table",
    "encode_table",
    "instances_schema",
    "read_columns",
    "read_instances",
    "read_skeleton",
    "write_instances",
]

_FORMAT = TableFormat("instances", version=3, kind="instances")


def instances_schema(skeleton: Skeleton) -> pa.Schema:
    """``id`` is the annotation's, ``file_name`` is relative to the image folder; see ``Instances``."""
    image = {"image_id": pa.int64(), "file_name": pa.string(), "image_sha256": pa.string(), "image_bytes": pa.int64()}
    size = {"width": pa.int32(), "height": pa.int32()}
    box = {"box": list_type(pa.float64(), 4), "center": list_type(pa.float64(), 2), "size": list_type(pa.float64(), 2)}
    pose = {"keypoints": list_type(pa.float32(), 3 * skeleton.num_keypoints), "mask_rle": pa.binary()}
    types = {"id": pa.int64(), **image, **size, **box, "area": pa.float64(), **pose}
    data = skeleton.encode()
    return _FORMAT.schema(types, optional="mask_rle", odkd_skeleton=data.decode(), odkd_skeleton_crc32=_checksum(data))


I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Record:
    """One instance, as a row of ``Instances``, with the name and size of its image."""

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


@dataclass(frozen=True, eq=False)
class Instances:
    """Instances, and the images that they are in; all coordinates are image pixels.

    ``box_N4`` is (x, y, w, h) clipped to the image, ``center_N2`` and ``size_N2`` (w, h) the padded crop (HRNet's scale
    times 200), ``area_N`` the annotated area, ``keypoints_NK3`` (x, y, v) with v 0, 1 or 2. ``mask_rle`` holds COCO's run
    lengths at the image's size, or null. ``image_N`` are rows of the image arrays ``*_M``, in the order of first use.
    """

    skeleton: Skeleton
    id_N: I64
    image_N: I64
    box_N4: F64
    center_N2: F64
    size_N2: F64
    area_N: F64
    keypoints_NK3: F32
    mask_rle: pa.BinaryArray
    image_id_M: I64
    file_name_M: list[str]
    sha256_M: list[str]
    bytes_M: I64
    width_M: I32
    height_M: I32

    @cached_property
    def has_mask_N(self) -> Bools:
        """Whether the mask is known."""
        known: Bools = self.mask_rle.is_valid().to_numpy(zero_copy_only=False)
        return known

    @staticmethod
    def from_records(records: Sequence[Record], facts: Mapping[int, FileFacts], skeleton: Skeleton) -> Instances:
        """A row for each record, in their order; ``facts`` of the images' files are by image id, ``skeleton`` is theirs."""

        def row(record: Record) -> dict[str, object]:
            boxes = {"box": record.box_4, "center": record.center_2, "size": record.size_2}
            image = {"image_sha256": facts[record.image_id].sha256, "image_bytes": facts[record.image_id].size}
            keypoints = record.keypoints_K3.reshape(-1)
            # The other columns have the names of the record's fields.
            return {**vars(record), **boxes, **image, "id": record.annotation_id, "keypoints": keypoints}

        return decode_table(pa.Table.from_pylist(list(map(row, records)), schema=instances_schema(skeleton)))

    def select(self, rows: Bools | I64) -> Instances:
        """The instances of a mask [N], or of row numbers in their order, with only the images that they need."""
        return decode_table(encode_table(self, np.arange(len(self.id_N))[rows]))


def encode_table(instances: Instances, rows: I64 | None = None) -> pa.Table:
    """The table of ``instances_schema`` with all instances, or those of the row numbers ``rows``."""
    rows_N = np.arange(len(instances.id_N)) if rows is None else rows
    image_N = instances.image_N[rows_N]
    columns = {
        "id": instances.id_N[rows_N],
        "image_id": instances.image_id_M[image_N],
        "file_name": [instances.file_name_M[image] for image in image_N],
        "image_sha256": [instances.sha256_M[image] for image in image_N],
        "image_bytes": instances.bytes_M[image_N],
        "width": instances.width_M[image_N],
        "height": instances.height_M[image_N],
        "box": instances.box_N4[rows_N],
        "center": instances.center_N2[rows_N],
        "size": instances.size_N2[rows_N],
        "area": instances.area_N[rows_N],
        "keypoints": instances.keypoints_NK3[rows_N],
        "mask_rle": instances.mask_rle.take(pa.array(rows_N)),
    }
    return table_of(instances_schema(instances.skeleton), columns)


def decode_table(table: pa.Table) -> Instances:
    """The instances of a table that ``encode_table`` returned."""
    skeleton = _skeleton_of(table.schema)
    # The dictionary numbers the images in the order of first use.
    image_N = table["image_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    first_M = np.unique(image_N, return_index=True)[1]
    images = table.select(["image_id", "file_name", "image_sha256", "image_bytes", "width", "height"]).take(first_M)
    return Instances(
        skeleton=skeleton,
        id_N=table["id"].to_numpy(),
        image_N=image_N,
        box_N4=from_lists(table, "box").reshape(-1, 4),
        center_N2=from_lists(table, "center").reshape(-1, 2),
        size_N2=from_lists(table, "size").reshape(-1, 2),
        area_N=table["area"].to_numpy(),
        keypoints_NK3=from_lists(table, "keypoints").reshape(-1, skeleton.num_keypoints, 3),
        mask_rle=table["mask_rle"].combine_chunks(),
        image_id_M=images["image_id"].to_numpy(),
        file_name_M=images["file_name"].to_pylist(),
        sha256_M=images["image_sha256"].to_pylist(),
        bytes_M=images["image_bytes"].to_numpy(),
        width_M=images["width"].to_numpy(),
        height_M=images["height"].to_numpy(),
    )


def write_instances(path: Path, instances: Instances) -> None:
    """Write the table to ``path`` atomically."""
    _FORMAT.write(path, encode_table(instances))


def read_instances(path: Path) -> Instances:
    """The instances of the table at ``path``; raises as ``TableFormat``."""
    return decode_table(_FORMAT.read(path, lambda found: instances_schema(_skeleton_of(found))))


def read_columns(path: Path, *names: str) -> list[list[Any]]:
    """Some columns of the table at ``path``, whose other columns are not read; raises as ``TableFormat``."""
    table = _FORMAT.read(path, lambda found: instances_schema(_skeleton_of(found)), *names)
    return [table[name].to_pylist() for name in names]


def read_skeleton(path: Path) -> Skeleton:
    """The skeleton of the table at ``path``, without its rows; raises as ``TableFormat``."""
    return _skeleton_of(_FORMAT.read_schema(path))


def _skeleton_of(schema: pa.Schema) -> Skeleton:
    data = schema.metadata.get(b"odkd_skeleton", b"")
    if schema.metadata.get(b"odkd_skeleton_crc32") != _checksum(data).encode():
        raise _FORMAT.corrupt("The skeleton of the instance table is damaged")
    try:
        return Skeleton.decode(data)
    except DataError as error:
        raise _FORMAT.corrupt(f"The instance table has no skeleton: {error.seen}") from error


def _checksum(data: bytes) -> str:
    # Parquet has checksums for pages, but none for the metadata of the schema.
    return f"{zlib.crc32(data):08x}"
