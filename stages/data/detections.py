"""Boxes of a person detector, read from a COCO detections file as instances to predict on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.data.images import ImageError, check_image
from stages.pose.affine import box_to_center_size
from storage_schemas.errors import DataError, Remedy
from storage_schemas.formats.instances import Record
from storage_schemas.formats.skeleton import Skeleton
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath

__all__ = ["check_images", "read_detections"]

log = logging.getLogger(__name__)

_PERSON = 1
_ALLOWED = "a list of {image_id, category_id, bbox, score}, such as COCO_val2017_detections_AP_H_56_person.json"

F64 = npt.NDArray[np.float64]
Image = Mapping[str, Any]


def read_detections(path: Path, images: Sequence[Image], *, aspect_wh: float, skeleton: Skeleton) -> tuple[list[Record], F64]:
    """The instances detected on ``images`` (those of a COCO ground truth), and the scores of their boxes.

    Images without annotations are included: detections on them are false positives. Boxes are not clipped to the image
    (HRNet, lib/dataset/coco.py, with detections). Boxes of other categories are skipped.

    Raises:
        DataError: the file is not a detections file, has values that are not finite, or no box on any of the images.
    """
    records = [record for record in _read(path) if record.get("category_id") == _PERSON]
    image_of = {int(image["id"]): image for image in images}
    # JSON also allows a list as an id, which has no hash.
    ours = [record for record in records if isinstance(record.get("image_id"), int) and record["image_id"] in image_of]
    if not ours:
        raise DataError(f"{path} has no person on any of the {len(image_of)} images of the ground truth", allowed=_ALLOWED)
    if len(ours) < len(records):
        log.warning("%d of %d boxes in %s are on images not in the ground truth", len(records) - len(ours), len(records), path)
    box_N4, score_N = _boxes(path, ours)
    center_N2, size_N2 = box_to_center_size(box_N4, aspect_wh=aspect_wh)
    found = [
        _record(row, image_of[record["image_id"]], box_N4[row], center_N2[row], size_N2[row], skeleton)
        for row, record in enumerate(ours)
    ]
    return found, score_N


def check_images(
    root: StorePath, images: Sequence[Image], *, progress: Callable[[], None] = lambda: None
) -> dict[int, FileFacts]:
    """Hash and length of the files of ``images`` below ``root``, by image id; calls ``progress`` after each.

    Raises:
        DataError: an image is missing or cannot be used.
    """

    def check(image: Image) -> FileFacts | str:
        try:
            return check_image(root, image["file_name"], (image["width"], image["height"]))
        except ImageError as error:
            return str(error)

    found, faults = dict[int, FileFacts](), list[str]()
    # Threads suffice: reading waits for storage, and decoding releases Python's lock.
    with ThreadPoolExecutor(thread_name_prefix="odkd-detections") as pool:
        for image, facts in zip(images, pool.map(check, images), strict=True):
            if isinstance(facts, FileFacts):
                found[int(image["id"])] = facts
            else:
                faults.append(f"image {image['id']} ('{image['file_name']}'): {facts}")
            progress()
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(
            f"The detections name images below {root} that cannot be used: {faults[0]}{more}",
            allowed="a usable file for every image that has a box in the detections file (evaluate.boxes)",
            remedy=Remedy("advice", text="restore the file, or remove its image from the annotations file (data.val)"),
        )
    return found


def _record(row: int, image: Image, box_4: F64, center_2: F64, size_2: F64, skeleton: Skeleton) -> Record:
    return Record(
        annotation_id=row,
        image_id=int(image["id"]),
        file_name=image["file_name"],
        width=image["width"],
        height=image["height"],
        box_4=box_4,
        center_2=center_2,
        size_2=size_2,
        area=float(box_4[2] * box_4[3]),
        keypoints_K3=np.zeros((skeleton.num_keypoints, 3), np.float32),
        mask_rle=None,
    )


def _boxes(path: Path, records: Sequence[Mapping[str, Any]]) -> tuple[F64, F64]:
    """Boxes [N, 4] (x, y, w, h) and their scores [N]."""
    try:
        box_N4 = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(len(records), 4)
        score_N = np.array([record["score"] for record in records], dtype=np.float64).reshape(len(records))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has a malformed record: {error}", allowed=_ALLOWED) from error
    good_N = np.isfinite(box_N4).all(axis=1) & np.isfinite(score_N) & (box_N4[:, 2:] > 0).all(axis=1)
    if not good_N.all():
        first = records[int(np.flatnonzero(~good_N)[0])]
        raise DataError(f"{path} has a box that is empty or not finite: {first}", allowed=_ALLOWED)
    return box_N4, score_N


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The detections {path} cannot be read: {error}", allowed=_ALLOWED) from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"The detections {path} are not a list of records", allowed=_ALLOWED)
    return records
