"""The instance table: one row a person, with the picture it is on, as Parquet.

Shape letters: N people, M pictures, K joints. Boxes are (x, y, w, h) and sizes (w, h), in picture pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage_schemas.errors import CorruptEntryError, StoreError

__all__ = [
    "INSTANCES_SCHEMA",
    "INSTANCES_VERSION",
    "Instances",
    "decode_table",
    "encode_table",
    "read_instances",
    "write_instances",
]

INSTANCES_VERSION = 1
_VERSION_KEY = b"odkd_instances"
_NUM_JOINTS = 17

INSTANCES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("image_bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("box", pa.list_(pa.float64(), 4), nullable=False),
        pa.field("center", pa.list_(pa.float64(), 2), nullable=False),
        pa.field("size", pa.list_(pa.float64(), 2), nullable=False),
        pa.field("area", pa.float64(), nullable=False),
        pa.field("keypoints", pa.list_(pa.float32(), 3 * _NUM_JOINTS), nullable=False),
        pa.field("mask_rle", pa.binary()),
        pa.field("holdout", pa.bool_(), nullable=False),
    ],
    metadata={_VERSION_KEY: str(INSTANCES_VERSION).encode()},
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Instances:
    """The table as arrays: what belongs to a person has length N, what belongs to a picture length M.

    ``image_N`` is the index of a person's picture; ``center_N2`` and ``size_N2`` are the padded crop (HRNet's scale is the size
    over 200); ``keypoints_NK3`` are x, y and COCO's visibility; ``mask_rle`` holds compressed RLE counts, null without a mask.
    """

    id_N: I64
    image_N: I64
    box_N4: F64
    center_N2: F64
    size_N2: F64
    area_N: F64
    keypoints_NK3: npt.NDArray[np.float32]
    holdout_N: npt.NDArray[np.bool_]
    mask_rle: pa.BinaryArray
    image_id_M: I64
    file_name_M: list[str]
    sha256_M: list[str]
    bytes_M: I64
    width_M: npt.NDArray[np.int32]
    height_M: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.id_N)

    @property
    def has_mask_N(self) -> npt.NDArray[np.bool_]:
        """Who has a mask."""
        valid: npt.NDArray[np.bool_] = self.mask_rle.is_valid().to_numpy(zero_copy_only=False)
        return valid

    def select(self, rows: npt.ArrayLike) -> Instances:
        """The people of these rows (a boolean mask or indices, in that order); the pictures stay as they are."""
        chosen = np.asarray(rows)
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        people = {
            name: getattr(self, name)[index]
            for name in ("id_N", "image_N", "box_N4", "center_N2", "size_N2", "area_N", "keypoints_NK3", "holdout_N")
        }
        return Instances(**people, mask_rle=self.mask_rle.take(pa.array(index)), **self._pictures())

    def _pictures(self) -> dict[str, Any]:
        names = ("image_id_M", "file_name_M", "sha256_M", "bytes_M", "width_M", "height_M")
        return {name: getattr(self, name) for name in names}


def encode_table(instances: Instances) -> pa.Table:
    """The Arrow table: a person's picture is repeated in its row."""
    image_N = instances.image_N
    columns = [
        pa.array(instances.id_N),
        pa.array(instances.image_id_M[image_N]),
        pa.array([instances.file_name_M[image] for image in image_N], pa.string()),
        pa.array([instances.sha256_M[image] for image in image_N], pa.string()),
        pa.array(instances.bytes_M[image_N]),
        pa.array(instances.width_M[image_N]),
        pa.array(instances.height_M[image_N]),
        _lists(instances.box_N4),
        _lists(instances.center_N2),
        _lists(instances.size_N2),
        pa.array(instances.area_N),
        _lists(instances.keypoints_NK3),
        instances.mask_rle,
        pa.array(instances.holdout_N),
    ]
    return pa.Table.from_arrays(columns, schema=INSTANCES_SCHEMA)


def _lists(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    rows = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def decode_table(table: pa.Table) -> Instances:
    """The reverse of ``encode_table``.

    Raises:
        StoreError: another version, or not an instance table.
    """
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(INSTANCES_VERSION):
        raise StoreError(
            f"The instance table has version {version}",
            allowed=f"version {INSTANCES_VERSION}, which this release writes",
            run="python -m pipeline.run --stage prepare --force",
        )
    if not table.schema.equals(INSTANCES_SCHEMA):
        raise StoreError("The instance table's columns are not those of its version", allowed=str(INSTANCES_SCHEMA.names))
    columns = {name: table.column(name).combine_chunks() for name in INSTANCES_SCHEMA.names}
    image_id_N = _numpy(columns["image_id"])
    image_id_M, first_M, image_N = np.unique(image_id_N, return_index=True, return_inverse=True)
    return Instances(
        id_N=_numpy(columns["id"]),
        image_N=image_N.astype(np.int64),
        box_N4=_rows(columns["box"]),
        center_N2=_rows(columns["center"]),
        size_N2=_rows(columns["size"]),
        area_N=_numpy(columns["area"]),
        keypoints_NK3=_rows(columns["keypoints"]).reshape(-1, _NUM_JOINTS, 3),
        holdout_N=_numpy(columns["holdout"]),
        mask_rle=columns["mask_rle"],
        image_id_M=image_id_M,
        file_name_M=columns["file_name"].take(pa.array(first_M)).to_pylist(),
        sha256_M=columns["image_sha256"].take(pa.array(first_M)).to_pylist(),
        bytes_M=_numpy(columns["image_bytes"])[first_M],
        width_M=_numpy(columns["width"])[first_M],
        height_M=_numpy(columns["height"])[first_M],
    )


def _numpy(column: pa.Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _rows(column: pa.FixedSizeListArray) -> npt.NDArray[Any]:
    return _numpy(column.flatten()).reshape(len(column), -1)


def write_instances(path: Path, instances: Instances) -> None:
    """Write the table as Parquet."""
    pq.write_table(encode_table(instances), path, compression="zstd")


def read_instances(path: Path) -> Instances:
    """Read a table back.

    Raises:
        CorruptEntryError: the file is missing or damaged.
        StoreError: it is of another version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptEntryError(
            f"The instance table {path} cannot be read: {error}", run="python -m pipeline.run --stage prepare --force"
        ) from error
    return decode_table(table)
