"""Predicted poses on disk: an Arrow table with a row a person and decoder, and COCO results that any COCO tool reads.

Shape letters: N people, K joints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage_schemas.errors import CorruptEntryError, Remedy, StoreError

__all__ = ["PREDICTIONS_SCHEMA", "coco_results", "read_predictions", "write_predictions", "write_results"]

_REBUILD = Remedy("run", kind="evaluations", force=True)

_PERSON = 1
_KEYPOINT_VALUES = 51
_VERSION_FIELD = b"odkd_schema"
_VERSION = b"1"

PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("instance_id", pa.int64()),
        pa.field("image_id", pa.int64()),
        pa.field("decoder", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("kept", pa.bool_()),
        pa.field("keypoints", pa.list_(pa.float32(), _KEYPOINT_VALUES)),
    ],
    metadata={_VERSION_FIELD: _VERSION},
)
"""``instance_id`` is the annotation's id, or the number of the detection; ``kept`` is False where OKS-NMS drops the person."""


def write_predictions(path: Path, columns: dict[str, Any], keypoints_NK3: npt.NDArray[np.float32]) -> None:
    """Write the table; ``columns`` holds all but the keypoints (x, y in image pixels, score)."""
    flat = pa.array(keypoints_NK3.reshape(-1).astype(np.float32))
    keypoints = pa.FixedSizeListArray.from_arrays(flat, _KEYPOINT_VALUES)
    table = pa.table({**columns, "keypoints": keypoints}, schema=PREDICTIONS_SCHEMA)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def read_predictions(path: Path, decoder: str) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """The columns of one decoder's rows as arrays, and ``keypoints_NK3``.

    Raises:
        StoreError: the table is of another version of this schema.
        CorruptEntryError: the file is not such a table.
    """
    try:
        # A column that is not there would be read as nulls, so the schema is compared and not asked for.
        found = pq.read_schema(path)
        _check_version(path, found)
        if not found.equals(PREDICTIONS_SCHEMA, check_metadata=False):
            raise pa.ArrowInvalid(f"its columns are {', '.join(found.names)}, or of other types")
        table = pq.read_table(path, filters=[("decoder", "=", decoder)], page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorruptEntryError(f"The predictions {path} cannot be read: {error}", remedy=_REBUILD) from error
    keypoints = table.column("keypoints").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    names = ("instance_id", "image_id", "score", "kept")
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in names}
    return columns, keypoints.reshape(table.num_rows, _KEYPOINT_VALUES // 3, 3)


def _check_version(path: Path, found: pa.Schema) -> None:
    version = (found.metadata or {}).get(_VERSION_FIELD)
    # A file that names no version is not one of ours: its columns tell more.
    if version not in (None, _VERSION):
        raise StoreError(
            f"The predictions {path} are of schema version {version.decode(errors='replace')}",
            allowed=f"version {_VERSION.decode()}, which this odkd reads and writes",
            remedy=_REBUILD,
        )


def coco_results(
    image_id_N: npt.NDArray[np.int64], score_N: npt.NDArray[np.float64], keypoints_NK3: npt.NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Records of a COCO keypoint results file; without ``bbox``, from which tools would take another area."""
    return [
        {
            "image_id": int(image_id),
            "category_id": _PERSON,
            "keypoints": [round(float(value), 3) for value in keypoints.reshape(-1)],
            "score": float(score),
        }
        for image_id, score, keypoints in zip(image_id_N, score_N, keypoints_NK3, strict=True)
    ]


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Write a COCO results file."""
    path.write_text(json.dumps(results, allow_nan=False))
