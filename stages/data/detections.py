"""Person boxes of a detector, from a COCO detections file, as people to predict on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.pose.affine import box_to_center_size
from storage_schemas.errors import DataError
from storage_schemas.instances import Instances

__all__ = ["read_detections"]

_PERSON = 1
_ALLOWED = "a list of {image_id, category_id, bbox, score}, such as COCO_val2017_detections_AP_H_56_person.json"


def read_detections(path: Path, table: Instances, *, aspect_wh: float) -> tuple[Instances, npt.NDArray[np.float64]]:
    """Everybody that was detected on the pictures of ``table``, and the scores of their boxes.

    Boxes are not trimmed to the picture (HRNet, lib/dataset/coco.py, with detections). Those of other categories are left out.

    Raises:
        DataError: the file is not such a list, holds values that are not finite, or boxes on none of the pictures.
    """
    records = [record for record in _read(path) if record.get("category_id") == _PERSON]
    index_of = {int(image_id): index for index, image_id in enumerate(table.image_id_M)}
    ours = [record for record in records if record.get("image_id") in index_of]
    if not ours:
        raise DataError(f"{path} has no person on any of the {len(index_of)} pictures", allowed=_ALLOWED)
    try:
        box_N4 = np.array([record["bbox"] for record in ours], dtype=np.float64).reshape(len(ours), 4)
        score_N = np.array([record["score"] for record in ours], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has a malformed record: {error}", allowed=_ALLOWED) from error
    good_N = np.isfinite(box_N4).all(axis=1) & np.isfinite(score_N) & (box_N4[:, 2:] > 0).all(axis=1)
    if not good_N.all():
        first = ours[int(np.flatnonzero(~good_N)[0])]
        raise DataError(f"{path} has a box that is empty or not finite: {first}", allowed=_ALLOWED)
    center_N2, size_N2 = box_to_center_size(box_N4, aspect_wh=aspect_wh)
    num = len(ours)
    people = Instances(
        id_N=np.arange(num, dtype=np.int64),
        image_N=np.array([index_of[record["image_id"]] for record in ours], dtype=np.int64),
        box_N4=box_N4,
        center_N2=center_N2,
        size_N2=size_N2,
        area_N=box_N4[:, 2:].prod(axis=1),
        keypoints_NK3=np.zeros((num, 17, 3), dtype=np.float32),
        holdout_N=np.zeros(num, dtype=bool),
        mask_rle=pa.nulls(num, pa.binary()),
        image_id_M=table.image_id_M,
        file_name_M=table.file_name_M,
        sha256_M=table.sha256_M,
        bytes_M=table.bytes_M,
        width_M=table.width_M,
        height_M=table.height_M,
    )
    return people, score_N


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The detections {path} cannot be read: {error}", allowed=_ALLOWED) from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"The detections {path} are not a list of records", allowed=_ALLOWED)
    return records
