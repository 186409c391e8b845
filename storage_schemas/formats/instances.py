"""The instance table: a row for each instance, as Parquet, and the same as numpy arrays.

Letters: N instances, K keypoints, M images. The table carries the skeleton of its keypoints.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.errors import DataError
from storage_schemas.formats.parquet import TableFormat, from_lists, list_type, to_lists
from storage_schemas.formats.skeleton import Skeleton

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

_FORMAT = TableFormat("instances", version=2, kind="instances")


def instances_schema(skeleton: Skeleton) -> pa.Schema:
    """``id`` is the annotation's, ``file_name`` is relative to the image folder; see ``Instances``."""
    image = {"image_id": pa.int64(), "file_name": pa.string(), "image_sha256": pa.string(), "image_bytes": pa.int64()}
    size = {"width": pa.int32(), "height": pa.int32()}
    box = {"box": list_type(pa.float64(), 4), "center": list_type(pa.float64(), 2), "size": list_type(pa.float64(), 2)}
    keypoints = {"area": pa.float64(), "keypoints": list_type(pa.float32(), 3 * skeleton.num_keypoints)}
    types = {"id": pa.int64(), **image, **size, **box, **keypoints, "mask_rle": pa.binary(), "holdout": pa.bool_()}
    data = skeleton.encode()
    return _FORMAT.schema(types, optional="mask_rle", odkd_skeleton=data.decode(), odkd_skeleton_crc32=_checksum(data))


I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ImageFacts:
    """The sha256 (hexadecimal) and the length in bytes of an image's file."""

    sha256: str
    bytes: int


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
    holdout: bool


@dataclass(frozen=True, eq=False)
class Instances:
    """Instances, and the images that they are in; all coordinates are image pixels.

    ``box_N4`` is (x, y, w, h) clipped to the image, ``center_N2`` and ``size_N2`` (w, h) the padded crop (HRNet's scale
    times 200), ``area_N`` the annotated area, ``keypoints_NK3`` (x, y, v) with v 0, 1 or 2. ``mask_rle`` holds COCO's
    compressed run lengths at the image's size, or null. Training skips the instances of ``holdout_N``. ``image_N`` are
    positions in the image arrays ``*_M``, which hold only images that an instance needs, in the order of first use.
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
        """Whether the mask is known."""
        known: Bools = self.mask_rle.is_valid().to_numpy(zero_copy_only=False)
        return known

    @staticmethod
    def from_records(records: Sequence[Record], facts: Mapping[int, ImageFacts], skeleton: Skeleton) -> Instances:
        """A row for each record, in their order; ``facts`` is by image id, all records have the same ``skeleton``."""
        first_M, image_N = _first_seen(np.array([record.image_id for record in records], np.int64))
        images = [records[row] for row in first_M]
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
            image_id_M=np.array([image.image_id for image in images], np.int64),
            file_name_M=[image.file_name for image in images],
            sha256_M=[facts[image.image_id].sha256 for image in images],
            bytes_M=np.array([facts[image.image_id].bytes for image in images], np.int64),
            width_M=np.array([image.width for image in images], np.int32),
            height_M=np.array([image.height for image in images], np.int32),
        )

    def select(self, rows: Bools | I64) -> Instances:
        """The instances of a mask [N], or of row numbers in their order, with only the images that they need."""
        chosen = np.arange(len(self.id_N))[rows]
        first_M, image_N = _first_seen(self.image_N[chosen])
        kept_M = self.image_N[chosen][first_M]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        images = {name: values[name][kept_M] for name in ("image_id_M", "bytes_M", "width_M", "height_M")}
        names = {name: [values[name][image] for image in kept_M] for name in ("file_name_M", "sha256_M")}
        rows_N = {name: array[chosen] for name, array in values.items() if "_N" in name}
        mask_rle = self.mask_rle.take(pa.array(chosen, pa.int64()))
        return Instances(**{**rows_N, **images, **names, "image_N": image_N, "mask_rle": mask_rle, "skeleton": self.skeleton})


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
        "box": to_lists(schema.field("box").type, instances.box_N4),
        "center": to_lists(schema.field("center").type, instances.center_N2),
        "size": to_lists(schema.field("size").type, instances.size_N2),
        "area": instances.area_N,
        "keypoints": to_lists(schema.field("keypoints").type, instances.keypoints_NK3),
        "mask_rle": instances.mask_rle,
        "holdout": instances.holdout_N,
    }
    return pa.table(columns, schema=schema)


def decode_table(table: pa.Table) -> Instances:
    """The instances of a table that ``encode_table`` returned."""
    skeleton = _skeleton_of(table.schema)
    first_M, image_N = _first_seen(table["image_id"].to_numpy())
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
        holdout_N=table["holdout"].to_numpy(),
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


def _first_seen(values_N: I64) -> tuple[I64, I64]:
    """The first row of each distinct value, in order, and for each row the position of its value among these."""
    _, first, inverse = np.unique(values_N, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]
