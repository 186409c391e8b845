"""Boxes of a person detector, read from a COCO detections file as instances to predict on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.data.json_file import Json, finite_numbers, read_json, show, whole
from stages.findings import Finding
from stages.pose.affine import box_to_center_size
from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError, Remedy
from storage_schemas.formats.instances import Record
from storage_schemas.formats.skeleton import Skeleton
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath

__all__ = ["Detected", "read_detections", "require_usable"]

log = logging.getLogger(__name__)

_PERSON = 1
_SHOWN = 10
_MAX_BOX_IMAGES = 10
_MAX_SCORE = 100
"""Some detectors give scores in percent; only their order matters."""
_SLACK_PX = 2.0
_MIN_BEYOND = 0.25
"""The share of boxes that reach out of their image, if boxes are corners: about three quarters. Detectors clip their boxes."""
_MIN_FRACTIONS = 0.9
"""The share of boxes with numbers up to 1, if boxes are fractions."""
_MIN_PERCENT_BOXES, _MIN_PERCENT_PX = 20, 200
"""A few people may all stand in the upper left corner, and in a small image any person is there."""

_ALLOWED = "a list of {image_id, category_id, bbox, score}, such as COCO_val2017_detections_AP_H_56_person.json"

F64 = npt.NDArray[np.float64]
Image = Mapping[str, Any]


class Detected(NamedTuple):
    """The instances detected on the images of a ground truth, the scores of their boxes, and what is odd about the file."""

    records: list[Record]
    score_N: F64
    findings: list[Finding]


def read_detections(path: Path, images: Sequence[Image], *, aspect_wh: float, skeleton: Skeleton = COCO_17) -> Detected:
    """The detections on ``images`` (those of a COCO ground truth).

    Images without annotations are included: detections on them are false positives. Boxes are not clipped to the image
    (HRNet, lib/dataset/coco.py, with detections). Boxes of other categories are skipped. A broken box (empty, not finite, not
    on its image, with a score outside of 0 to 100) is left out, and a finding counts them.

    Raises:
        DataError: the file is not a detections file, has no box on any of the images, or half of its boxes are broken.
    """
    every = _read(path)
    records = [record for record in every if whole(record.get("category_id")) == _PERSON]
    if not records:
        raise _no_person(path, every)
    image_of = {int(image["id"]): image for image in images}
    ours = [(record, image_of[key]) for record in records if (key := _image_id(record)) in image_of]
    if not ours:
        raise _no_image(path, records, image_of)
    if len(ours) < len(records):
        log.warning("%d of %d boxes in %s are on images not in the ground truth", len(records) - len(ours), len(records), path)
    faults = [_fault(record, image) for record, image in ours]
    good = [pair for pair, fault in zip(ours, faults, strict=True) if fault is None]
    broken = [f"{fault}: {show(record)}" for (record, _), fault in zip(ours, faults, strict=True) if fault]
    if 2 * len(broken) >= len(ours):
        raise DataError(
            f"{path}: {len(broken)} of {len(ours)} boxes are broken; the first is {broken[0]}",
            allowed=_ALLOWED,
            remedy=_fractions([record for record, _ in ours]),
        )
    box_N4 = np.array([record["bbox"] for record, _ in good], np.float64)
    score_N = np.array([record["score"] for record, _ in good], np.float64)
    center_N2, size_N2 = box_to_center_size(box_N4, aspect_wh=aspect_wh)
    found = [_record(row, image, box_N4[row], center_N2[row], size_N2[row], skeleton) for row, (_, image) in enumerate(good)]
    on_images = [image for _, image in good]
    findings = [*_left_out(path, broken, len(ours)), *_corners(path, box_N4, on_images), *_percent(path, box_N4, on_images)]
    return Detected(found, score_N, findings)


def require_usable(root: StorePath, records: Sequence[Record], read: Mapping[int, FileFacts | str]) -> dict[int, FileFacts]:
    """The facts of the images of ``records`` by image id; ``read`` has the reason for each that cannot be used.

    Raises:
        DataError: an image below ``root`` is missing or cannot be used.
    """
    names = {record.image_id: record.file_name for record in records}
    faults = [f"image {key} ('{name}'): {read[key]}" for key, name in names.items() if isinstance(read[key], str)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(
            f"The detections name images below {root} that cannot be used: {faults[0]}{more}",
            allowed="a usable file for every image that has a box in the detections file (evaluate.boxes)",
            remedy=Remedy("advice", text="restore the file, or remove its image from the annotations file (data.val)"),
        )
    return {key: facts for key, facts in read.items() if isinstance(facts, FileFacts)}


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


def _image_id(record: Json) -> int | None:
    """The id, or None: JSON also allows a list as an id, which has no hash, and True, which equals 1."""
    found = whole(record.get("image_id"))
    return found if type(found) is int else None


def _fault(record: Json, image: Image) -> str | None:
    """Why a box cannot be used, or None."""
    box, score = finite_numbers(record.get("bbox"), 4), finite_numbers([record.get("score")], 1)
    if box is None or score is None:
        return _not_numbers(record)
    x, y, w, h = box
    width, height = image["width"], image["height"]
    if min(w, h) <= 0:
        return "a box that is empty or not finite"
    if max(w, h) < 1:
        return "a box of less than a pixel"
    if w > _MAX_BOX_IMAGES * width or h > _MAX_BOX_IMAGES * height:
        return f"a box of more than {_MAX_BOX_IMAGES} times the image of {width} x {height}"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return f"a box outside of the image of {width} x {height}"
    return None if 0 <= score[0] <= _MAX_SCORE else f"a score that is not from 0 to {_MAX_SCORE}"


def _not_numbers(record: Json) -> str:
    """The fault of a box or score that is not a finite number, or not a number at all."""
    box, score = record.get("bbox"), record.get("score")
    values = [*box, score] if isinstance(box, list) and len(box) == 4 else [None]
    return "a box that is empty or not finite" if all(type(value) in (int, float) for value in values) else "a malformed record"


def _no_person(path: Path, every: Sequence[Json]) -> DataError:
    """The error for a file without people, with the categories that it has."""
    counts = Counter(show(record.get("category_id")) for record in every)
    seen = ", ".join(f"{category} ({count} records)" for category, count in counts.most_common(_SHOWN))
    from_0 = ", since some tools count categories from 0" if list(counts) == ["0"] else ""
    return DataError(
        f"{path} has no record of category {_PERSON} (person); its categories are {seen or 'none: the file is empty'}",
        allowed=_ALLOWED,
        remedy=Remedy("advice", text=f"write category_id {_PERSON} for people{from_0}") if every else None,
    )


def _no_image(path: Path, records: Sequence[Json], image_of: Mapping[int, Image]) -> DataError:
    """The error for people on other images, with an id of the file and one of the ground truth."""
    ours = f"image ids such as {next(iter(image_of))}" if image_of else "no images"
    return DataError(
        f"{path} has no person on any of the {len(image_of)} images of the ground truth: its image ids are such as "
        f"{show(records[0].get('image_id'))}; the ground truth has {ours}",
        allowed=_ALLOWED,
    )


def _left_out(path: Path, broken: Sequence[str], count: int) -> Iterator[Finding]:
    if broken:
        yield Finding(
            kind="boxes_left_out",
            seen=f"{len(broken)} of {count} boxes in {path.name} are broken and left out; the first is {broken[0]}",
            remedy="The AP counts these people as not found, unless other boxes find them: check the detector's export",
            count=len(broken),
            of=count,
            example=broken[0],
        )


def _corners(path: Path, box_N4: F64, images: Sequence[Image]) -> Iterator[Finding]:
    """Boxes that are probably two corners: each would be one, and many reach out of their image as x, y, w, h."""
    low_N2, high_N2 = box_N4[:, :2], box_N4[:, :2] + box_N4[:, 2:]
    image_N2 = np.array([(image["width"], image["height"]) for image in images], np.float64)
    beyond_N = np.logical_or.reduce(high_N2 > image_N2 + _SLACK_PX, axis=1)
    corners_N = (box_N4[:, 2:] > low_N2).all(axis=1) & (box_N4[:, 2:] <= image_N2 + _SLACK_PX).all(axis=1)
    if beyond_N.mean() > _MIN_BEYOND and corners_N.all():
        row = int(np.argmax(beyond_N))
        yield Finding(
            kind="boxes_beyond_image",
            seen=f"{beyond_N.sum()} of {len(beyond_N)} boxes in {path.name} reach out of their image at the right or "
            f"the bottom, such as {show(box_N4[row].tolist())} in {images[row]['file_name']}",
            remedy="The boxes are probably two corners (x1, y1, x2, y2); write bbox as x, y, width, height",
            count=int(beyond_N.sum()),
            of=len(beyond_N),
            example=images[row]["file_name"],
        )


def _fractions(records: Sequence[Json]) -> Remedy | None:
    """The remedy for boxes that are probably fractions: hardly any of them has a number above 1."""
    boxes = [box for record in records if (box := finite_numbers(record.get("bbox"), 4))]
    if sum(max(box) <= 1 for box in boxes) < _MIN_FRACTIONS * len(records):
        return None
    form = "the boxes are probably fractions of the image's width and height"
    return Remedy("advice", text=f"write bbox as x, y, width, height in pixels of the image: {form}")


def _percent(path: Path, box_N4: F64, images: Sequence[Image]) -> Iterator[Finding]:
    """Boxes that are probably percent: none of many has a number above 100, and all images are much larger."""
    smallest = min(min(image["width"], image["height"]) for image in images)
    if len(box_N4) >= _MIN_PERCENT_BOXES and box_N4.max() <= 100 and smallest >= _MIN_PERCENT_PX:
        yield Finding(
            kind="boxes_in_percent",
            seen=f"None of the {len(box_N4)} boxes in {path.name} has a number above 100, such as {show(box_N4[0].tolist())} "
            f"in {images[0]['file_name']}, which is {images[0]['width']} x {images[0]['height']}",
            remedy="The boxes are probably percent of the image's width and height; write bbox in pixels of the image",
            count=len(box_N4),
            of=len(box_N4),
            example=images[0]["file_name"],
        )


def _read(path: Path) -> list[Json]:
    records, _ = read_json(path, what="detections file", allowed=_ALLOWED)
    if not isinstance(records, list):
        raise DataError(
            f"The detections file {path} is a JSON {type(records).__name__}, not a list of records", allowed=_ALLOWED
        )
    if wrong := [record for record in records if not isinstance(record, dict)]:
        raise DataError(
            f"The detections file {path} is not a list of records: {len(wrong)} items are others, such as {show(wrong[0])}",
            allowed=_ALLOWED,
        )
    return records
