"""COCO-format keypoint annotations: read strictly, then sorted into people to use, people left out by rule, and what is broken.

All rules in one place:

The file is refused as a whole (``DataError``, with the ids) if it cannot be read, is not UTF-8 or not JSON, is nested too
deeply or larger than 4 GiB, lacks ``images``, ``annotations`` or ``categories``, has no category ``person`` (or two, or one
of other keypoints than the skeleton), if an id is missing, repeated, not an integer or beyond 64 bits, if an annotation's image
is missing, or if NaN or Infinity stands anywhere but in an annotation's bbox, area, keypoints or segmentation.

Left out by rule, and counted: annotations of other categories, crowds, people without a labelled joint (HRNet,
lib/dataset/coco.py). The last two stay in the ground truth, where the evaluation ignores what is found in them.

Quarantined, each with its id and the reason (whose first word, up to the colon, is the kind):

- file_name: not a string, empty, absolute, with ``..``, a control character or NUL, or longer than 1,024 bytes.
- size: the picture's width or height not a whole number above 0, a side above 32,766 or more than 100 megapixels.
  Both take all people of the picture with them.
- category, iscrowd: an unknown category, a flag that is not 0 or 1.
- bbox: not four finite numbers, negative, beside the picture, or more than ten times as wide or high as it.
  For a person to use: width and height above 0, and at least one pixel in the picture.
- area: not a finite number from 0 to twice the box's; above 0 for a person to use.
- keypoints: not 3 finite numbers for each keypoint of the skeleton, v not 0, 1 or 2, or a labelled keypoint more than half an
  image outside the image.
- num_keypoints: given, and not the number of joints with v > 0.
- segmentation: given, not empty, and neither polygons nor run lengths of this picture (see ``segmentation.py``).

A box that goes partly over the edge is trimmed by HRNet's rule. Joints with v = 0 are put at (0, 0), as COCO defines it.
Names are only sorted out here; nothing but the annotation file is opened.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.data.coco_file import CocoFile, Json, read_coco, show
from stages.data.images import file_name_fault, size_fault
from stages.data.segmentation import SegmentationError, mask_rle
from stages.pose.affine import box_to_center_size, trim_box
from storage_schemas.formats.instances import Record
from storage_schemas.formats.skeleton import Skeleton

__all__ = ["CocoFile", "Quarantined", "Record", "SortedOut", "ground_truth_json", "is_held_out", "read_coco", "sort_out"]

_MAX_BOX_PICTURES = 10
_MAX_OUTSIDE = 0.5
_MAX_AREA_BOXES = 2
# What COCO results say of people, and ours: the truth says the same, whatever id the file has for 'person'.
_PERSON = 1
_LABELS = frozenset((0.0, 1.0, 2.0))
_NUMBER_TYPES = frozenset((int, float))

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quarantined:
    """What is set aside as broken; the annotation is None where a picture without people is."""

    annotation_id: int | None
    image_id: int | None
    file_name: str
    reason: str


@dataclass(frozen=True)
class SortedOut:
    """``records`` by image id, then annotation id; ``skipped`` counts what each rule leaves out."""

    records: list[Record]
    quarantine: list[Quarantined]
    skipped: dict[str, int]


class _FaultError(ValueError):
    """Why a record is quarantined."""


@dataclass
class _Person:
    """An annotation and what its checks made of it; ``box`` (x, y, w, h) is trimmed, and the mask made, once it is used."""

    annotation: Json
    image: Json
    box: list[float]
    area: float
    keypoints_K3: F64
    mask: bytes | None = None


def sort_out(coco: CocoFile, *, aspect_wh: float, holdout_fraction: float) -> SortedOut:
    """Apply the rules above; ``aspect_wh`` is width / height of the crop.

    ``holdout_fraction`` of the images are held out from training, chosen by a hash of the image's id alone: the same
    whatever else is in the file, and for all people of an image alike.
    """
    people: list[_Person] = []
    quarantine = _pictures_without_people(coco)
    skipped: Counter[str] = Counter()
    faults = {image_id: fault for image_id, image in coco.images.items() if (fault := _image_fault(image))}
    for annotation in coco.annotations:
        image = coco.images[annotation["image_id"]]
        try:
            if _is_other_category(coco, annotation):
                skipped["other category"] += 1
                continue
            person = _measured(coco, annotation, image, faults.get(image["id"]))
            if rule := _left_out(person):
                skipped[rule] += 1
            else:
                people.append(_usable(person))
        except _FaultError as fault:
            quarantine.append(Quarantined(annotation["id"], image["id"], _name(image), str(fault)))
    people.sort(key=lambda person: (person.image["id"], person.annotation["id"]))
    return SortedOut(_records(people, aspect_wh=aspect_wh, holdout_fraction=holdout_fraction), quarantine, dict(skipped))


def ground_truth_json(coco: CocoFile, *, quarantine: Iterable[Quarantined], bad_images: Collection[int] = ()) -> Json:
    """What the evaluator needs, as a COCO document: images and people, with crowds and people without joints to be ignored.

    People are category 1, as in COCO's results. What is in ``quarantine`` is left out; an image that cannot be used (by its
    record, or named in ``bad_images``) is left out with everybody in it. Boxes are as annotated, not trimmed.
    """
    broken = {item.annotation_id for item in quarantine}
    images = {key: image for key, image in coco.images.items() if key not in bad_images and not _image_fault(image)}
    people = [
        _truth(annotation, coco.skeleton)
        for annotation in coco.annotations
        if annotation["image_id"] in images and annotation["id"] not in broken and annotation["category_id"] == coco.person_id
    ]
    return {
        "images": [{name: image[name] for name in ("id", "file_name", "width", "height")} for image in images.values()],
        "annotations": people,
        "categories": [{"id": _PERSON, "name": "person", "keypoints": list(coco.skeleton.keypoints)}],
    }


def is_held_out(image_id: int, fraction: float) -> bool:
    """Whether the image is among the ``fraction`` that is kept from training."""
    digest = hashlib.sha256(f"holdout {image_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


# --- pictures


def _image_fault(image: Json) -> str | None:
    if fault := file_name_fault(image.get("file_name")):
        return f"file_name: {fault}"
    if fault := size_fault(image.get("width"), image.get("height")):
        return f"size: {fault}"
    return None


def _name(image: Json) -> str:
    name = image.get("file_name")
    return name if isinstance(name, str) else ""


def _pictures_without_people(coco: CocoFile) -> list[Quarantined]:
    """Broken pictures that no person's entry would tell of."""
    with_people = {annotation["image_id"] for annotation in coco.annotations if annotation.get("category_id") == coco.person_id}
    return [
        Quarantined(None, key, _name(image), fault)
        for key, image in coco.images.items()
        if key not in with_people and (fault := _image_fault(image))
    ]


# --- people


def _is_other_category(coco: CocoFile, annotation: Json) -> bool:
    category = annotation.get("category_id")
    if type(category) is not int or category not in coco.category_ids:
        raise _FaultError(f"category: {show(category)} is not one of the file's")
    return category != coco.person_id


def _measured(coco: CocoFile, annotation: Json, image: Json, image_fault: str | None) -> _Person:
    """The person after the checks that hold for those to use and those to ignore alike."""
    if image_fault:
        raise _FaultError(image_fault)
    crowd = annotation.get("iscrowd", 0)
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        raise _FaultError(f"iscrowd: {show(crowd)} is not 0 or 1")
    width, height = image["width"], image["height"]
    box = _box(annotation, width, height)
    return _Person(annotation, image, box, _area(annotation, box), _keypoints(annotation, width, height, coco.skeleton))


def _left_out(person: _Person) -> str | None:
    """The rule that leaves the person out, or None for one to use."""
    if person.annotation.get("iscrowd", 0):
        return "crowd"
    return None if person.keypoints_K3[:, 2].any() else "no labelled joint"


def _usable(person: _Person) -> _Person:
    """The person with trimmed box and mask, after the checks that only people to use must pass."""
    x, y, w, h = person.box
    if w <= 0 or h <= 0:
        raise _FaultError(f"bbox: {show(person.annotation['bbox'])} has no width or no height")
    if person.area <= 0:
        raise _FaultError(f"area: {show(person.annotation['area'])} is not above 0")
    image_wh = (person.image["width"], person.image["height"])
    trimmed: list[float] = trim_box(person.box, image_size_wh=image_wh).tolist()
    # HRNet's trim moves a box over the left edge instead of cutting it, so what is in the picture is looked at by itself;
    # and HRNet keeps a box whose trimmed sides are both 0, and then divides by them.
    if min(x + w, y + h) <= 0 or min(trimmed[2:]) < 0 or max(trimmed[2:]) < 1:
        raise _FaultError(f"bbox: {show(person.annotation['bbox'])} has less than a pixel in the picture")
    try:
        mask = mask_rle(person.annotation.get("segmentation"), image_wh=image_wh)
    except SegmentationError as error:
        raise _FaultError(f"segmentation: {error}") from error
    return replace(person, box=trimmed, mask=mask)


def _records(people: Sequence[_Person], *, aspect_wh: float, holdout_fraction: float) -> list[Record]:
    box_N4 = np.array([person.box for person in people], np.float64).reshape(-1, 4)
    center_N2, size_N2 = box_to_center_size(box_N4, aspect_wh=aspect_wh)
    return [
        Record(
            annotation_id=person.annotation["id"],
            image_id=person.image["id"],
            file_name=person.image["file_name"],
            width=person.image["width"],
            height=person.image["height"],
            box_4=box_4,
            center_2=center_2,
            size_2=size_2,
            area=person.area,
            keypoints_K3=person.keypoints_K3.astype(np.float32),
            mask_rle=person.mask,
            holdout=is_held_out(person.image["id"], holdout_fraction),
        )
        for person, box_4, center_2, size_2 in zip(people, box_N4, center_N2, size_N2, strict=True)
    ]


def _numbers(value: object, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers, or None; numpy alone would also take strings and booleans."""
    if not isinstance(value, list) or len(value) != count or not _NUMBER_TYPES.issuperset(map(type, value)):
        return None
    try:
        numbers = [float(item) for item in value]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _box(annotation: Json, width: int, height: int) -> list[float]:
    """The box as annotated (x, y, w, h)."""
    given = annotation.get("bbox")
    box = _numbers(given, 4)
    if box is None:
        raise _FaultError(f"bbox: {show(given)} is not four finite numbers")
    x, y, w, h = box
    if w < 0 or h < 0:
        raise _FaultError(f"bbox: {show(given)} has a negative width or height")
    if x >= width or y >= height or x + w < 0 or y + h < 0:
        raise _FaultError(f"bbox: {show(given)} is beside the picture of {width} x {height}")
    if w > _MAX_BOX_PICTURES * width or h > _MAX_BOX_PICTURES * height:
        raise _FaultError(f"bbox: {show(given)} is more than {_MAX_BOX_PICTURES} times the picture of {width} x {height}")
    return box


def _area(annotation: Json, box: Sequence[float]) -> float:
    """The annotated area, by which OKS divides: one that is too large lets any pose count as right."""
    given = annotation.get("area")
    numbers = _numbers([given], 1)
    if numbers is None or numbers[0] < 0:
        raise _FaultError(f"area: {show(given)} is not a finite number from 0")
    # One pixel more, since boxes of ignored regions may be flat.
    if numbers[0] > _MAX_AREA_BOXES * (box[2] + 1.0) * (box[3] + 1.0):
        if min(box[2:]) == 0:
            raise _FaultError(f"bbox: {show(annotation['bbox'])} has no width or no height")
        raise _FaultError(f"area: {show(given)} is more than {_MAX_AREA_BOXES} times the box's")
    return numbers[0]


def _keypoints(annotation: Json, width: int, height: int, skeleton: Skeleton) -> F64:
    """Joints (K, 3); all zeros where the annotation has none, as crowds may."""
    given = annotation.get("keypoints")
    count = 3 * skeleton.num_keypoints
    numbers = [0.0] * count if given is None or given == [] else _numbers(given, count)
    if numbers is None:
        length = f"{len(given)} values" if isinstance(given, list) else show(given)
        raise _FaultError(f"keypoints: {length}, not {count} finite numbers")
    if not _LABELS.issuperset(numbers[2::3]):
        raise _FaultError("keypoints: a v that is not 0, 1 or 2")
    keypoints_K3 = np.array(numbers).reshape(-1, 3)
    labelled_K = keypoints_K3[:, 2] > 0
    _check_count(annotation, int(np.count_nonzero(labelled_K)))
    keypoints_K3[~labelled_K] = 0.0
    for side, place_K in ((width, keypoints_K3[:, 0]), (height, keypoints_K3[:, 1])):
        if place_K.min() < -_MAX_OUTSIDE * side or place_K.max() > (1 + _MAX_OUTSIDE) * side:
            raise _FaultError(f"keypoints: a labelled joint far outside the picture of {width} x {height}")
    return keypoints_K3


def _check_count(annotation: Json, labelled: int) -> None:
    count = annotation.get("num_keypoints", labelled)
    if type(count) is not int or count != labelled:
        raise _FaultError(f"num_keypoints: {show(count)} where {labelled} joints have v > 0")


def _truth(annotation: Json, skeleton: Skeleton) -> Json:
    """The annotation with what the evaluation reads, and nothing that was not checked."""
    keypoints = annotation.get("keypoints") or [0] * (3 * skeleton.num_keypoints)
    return {
        "id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": _PERSON,
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "bbox": annotation["bbox"],
        "area": annotation["area"],
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
    }
