"""Predicted poses on disk: a table with a row for each instance and decoder. Letters: N instances, K keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.formats.parquet import TableFormat, from_lists, list_type, table_of

__all__ = ["read_predictions", "write_predictions"]

_FORMAT = TableFormat("predictions", version=2, kind="evaluations")


def _schema(num_keypoints: int) -> pa.Schema:
    """``instance_id`` is the annotation's id or the detection's number; ``kept`` is False if OKS-NMS drops the instance."""
    whose = {"instance_id": pa.int64(), "image_id": pa.int64(), "decoder": pa.string()}
    what = {"score": pa.float64(), "kept": pa.bool_(), "keypoints": list_type(pa.float32(), 3 * num_keypoints)}
    return _FORMAT.schema({**whose, **what})


def write_predictions(path: Path, columns: dict[str, Any], keypoints_NK3: npt.NDArray[np.float32]) -> None:
    """Write the table; ``columns`` holds all but the keypoints (x, y in image pixels, score)."""
    _FORMAT.write(path, table_of(_schema(keypoints_NK3.shape[1]), {**columns, "keypoints": keypoints_NK3.astype(np.float32)}))


def read_predictions(path: Path, decoder: str) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """The columns of one decoder's rows as arrays, and ``keypoints_NK3``; raises as ``TableFormat``."""
    table = _FORMAT.read(path, lambda found: _schema(_num_keypoints(found)))
    num_keypoints = _num_keypoints(table.schema)
    table = table.filter(pc.field("decoder") == decoder)
    columns = {name: table[name].to_numpy() for name in ("instance_id", "image_id", "score", "kept")}
    return columns, from_lists(table, "keypoints").reshape(table.num_rows, num_keypoints, 3)


def _num_keypoints(found: pa.Schema) -> int:
    lists = found.field("keypoints").type if "keypoints" in found.names else None
    return lists.list_size // 3 if isinstance(lists, pa.FixedSizeListType) else 0
