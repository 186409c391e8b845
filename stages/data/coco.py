"""COCO keypoint annotations: a file is read strictly, and its annotations are sorted into usable, skipped and broken ones.

All rules in one place:

``read_coco`` refuses the whole file (``DataError``, with the ids) if it cannot be read, is not UTF-8 or not JSON, is nested
too deeply, larger than 4 GiB, or repeats a key within an object; if images, annotations or categories are missing; if
it has no category ``person``, or two, or one with other keypoints than the skeleton (see ``joint_names.py``); if an id is
missing, repeated, not an integer or beyond 64 bits; if an annotation's image is missing; or if an id, or the size of an image,
is NaN or Infinity. A whole number may be written as a float: 320.0 is 320. Fields that are not read may hold anything.

Skipped by rule, and counted: annotations of other categories, crowds, instances without a labelled joint (HRNet,
lib/dataset/coco.py). Crowds and instances without joints stay in the ground truth, as regions that the evaluation ignores.

Quarantined, each with its id, the kind of its fault and the details:

- file_name: not a string, empty, absolute, with ``..``, a control character or NUL, or longer than 1,024 bytes.
- size: the image's width or height is not a whole number above 0, a side is above 32,766, or it has over 100 megapixels.
  These two faults apply to all instances of the image.
- category, iscrowd: an unknown category, a flag that is not 0 or 1. Without a flag it is 0.
- bbox: not four finite numbers, negative, outside of the image, or more than ten times as wide or high as the image.
  A usable instance needs a width and a height above 0, and at least one pixel in the image.
- area: not a finite number from 0 to twice that of the box; a usable instance needs an area above 0.
- keypoints: not 3 values for each keypoint of the skeleton, v not 0, 1 or 2, or a labelled keypoint that is not finite or is
  more than half an image outside of the image. Without a label a keypoint may hold anything (see ``coco_keypoints.py``).
- num_keypoints: given, and not the number of keypoints with v > 0.
- segmentation: given, not empty, and neither polygons nor run lengths of this image (see ``segmentation.py``). Polygons of
  fewer than three points are left out, and so are broken ones beside good ones. Without a pixel there is no mask.
- image: stage prepare cannot read the image.

Null and NaN in ``iscrowd`` and ``num_keypoints`` count as missing. Whether the set as a whole is plausible is checked in
``stages/prepare/plausible.py``.

A box that is partly outside of the image is clipped by HRNet's rule. Keypoints with v = 0 are moved to (0, 0), as COCO
defines them. No image is opened here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from stages.data.coco_file import CocoFile, read_coco
from stages.data.coco_keypoints import KeypointsError, labelled_keypoints, plain_keypoints
from stages.data.images import file_name_fault, size_fault
from stages.data.json_file import Json, few, finite_numbers, show
from stages.data.segmentation import SegmentationError, mask_rle
from stages.pose.affine import box_to_center_size, trim_box
from storage_schemas.formats.instances import Record
from storage_schemas.formats.skeleton import Skeleton

__all__ = ["CocoFile", "Quarantined", "Record", "SortedOut", "ground_truth_json", "read_coco", "sort_out"]

_MAX_BOX_IMAGES = 10
_MAX_AREA_BOXES = 2
# The category id of COCO's results, and of ours: the ground truth uses it, even if the file has another id for 'person'.
_PERSON = 1

F64 = npt.NDArray[np.float64]
FaultKind = Literal[
    "file_name", "size", "category", "iscrowd", "bbox", "area", "keypoints", "num_keypoints", "segmentation", "image"
]


@dataclass(frozen=True)
class Quarantined:
    """A broken annotation, or a broken image without instances (then ``annotation_id`` is None)."""

    annotation_id: int | None
    image_id: int | None
    file_name: str
    kind: FaultKind
    detail: str

    @property
    def reason(self) -> str:
        """The fault as text."""
        return f"{self.kind}: {self.detail}"

    def as_dict(self) -> Json:
        """The line of the quarantine file, as JSON values."""
        ids = {"annotation_id": self.annotation_id, "image_id": self.image_id, "file_name": self.file_name}
        return {**ids, "kind": self.kind, "reason": self.reason}


@dataclass(frozen=True)
class SortedOut:
    """``records`` by image id, then annotation id; ``skipped`` counts the annotations that each rule skips."""

    records: list[Record]
    quarantine: list[Quarantined]
    skipped: dict[str, int]


class _FaultError(ValueError):
    """A record has to be quarantined."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass
class _Instance:
    """An annotation and its checked values; ``_usable`` clips ``box`` (x, y, w, h) and adds the mask."""

    annotation: Json
    image: Json
    box: list[float]
    area: float
    keypoints_K3: F64
    mask: bytes | None = None


def sort_out(coco: CocoFile, *, aspect_wh: float, keep_unlabelled: bool = False) -> SortedOut:
    """Apply the rules above; ``aspect_wh`` is width / height of the crop.

    ``keep_unlabelled`` keeps people without a labelled joint, whom teachers can teach.
    """
    instances: list[_Instance] = []
    quarantine = _empty_broken_images(coco)
    skipped: Counter[str] = Counter()
    faults = {image_id: fault for image_id, image in coco.images.items() if (fault := _image_fault(image))}
    for annotation in coco.annotations:
        image = coco.images[annotation["image_id"]]
        try:
            if _is_other_category(coco, annotation):
                skipped["other category"] += 1
                continue
            instance = _checked(coco, annotation, image, faults.get(image["id"]))
            if rule := _skipping_rule(instance, keep_unlabelled=keep_unlabelled):
                skipped[rule] += 1
            else:
                instances.append(_usable(instance))
        except _FaultError as fault:
            quarantine.append(Quarantined(annotation["id"], image["id"], _name(image), fault.kind, fault.detail))
    instances.sort(key=lambda instance: (instance.image["id"], instance.annotation["id"]))
    return SortedOut(_records(instances, aspect_wh=aspect_wh), quarantine, dict(skipped))


def ground_truth_json(coco: CocoFile, *, quarantine: Iterable[Quarantined], bad_images: Collection[int] = ()) -> Json:
    """The evaluator's input as a COCO document: images and instances, with the regions that it ignores.

    The category id is 1, as in COCO's results. Annotations in ``quarantine`` are left out, and images that are broken or in
    ``bad_images`` with all of their annotations. Boxes are as annotated, not clipped.
    """
    broken = {item.annotation_id for item in quarantine}
    images = {key: image for key, image in coco.images.items() if key not in bad_images and not _image_fault(image)}
    annotations = [
        _truth(annotation, coco.skeleton)
        for annotation in coco.annotations
        if annotation["image_id"] in images and annotation["id"] not in broken and annotation["category_id"] == coco.person_id
    ]
    return {
        "images": [{name: image[name] for name in ("id", "file_name", "width", "height")} for image in images.values()],
        "annotations": annotations,
        "categories": [{"id": _PERSON, "name": "person", "keypoints": list(coco.skeleton.keypoints)}],
    }


# --- images


def _image_fault(image: Json) -> tuple[FaultKind, str] | None:
    name, width, height = (image.get(field) for field in ("file_name", "width", "height"))
    if detail := file_name_fault(name):
        return "file_name", detail if isinstance(name, str) else f"{detail}: {show(name)}"
    if detail := size_fault(width, height):
        return "size", detail
    return None


def _name(image: Json) -> str:
    name = image.get("file_name")
    return name if isinstance(name, str) else ""


def _empty_broken_images(coco: CocoFile) -> list[Quarantined]:
    """Broken images without instances: no quarantined annotation names them."""
    with_instances = {item["image_id"] for item in coco.annotations if item.get("category_id") == coco.person_id}
    return [
        Quarantined(None, key, _name(image), *fault)
        for key, image in coco.images.items()
        if key not in with_instances and (fault := _image_fault(image))
    ]


# --- instances


def _is_other_category(coco: CocoFile, annotation: Json) -> bool:
    category = annotation.get("category_id")
    if type(category) is not int or category not in coco.category_ids:
        raise _FaultError("category", f"{show(category)} is not one of the file's: {few(sorted(coco.category_ids))}")
    return category != coco.person_id


def _checked(coco: CocoFile, annotation: Json, image: Json, image_fault: tuple[FaultKind, str] | None) -> _Instance:
    """The instance after the checks that usable instances and ignored regions have in common."""
    if image_fault:
        raise _FaultError(*image_fault)
    crowd = annotation.get("iscrowd", 0)
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        raise _FaultError("iscrowd", f"{show(crowd)} is not 0 or 1")
    width, height = image["width"], image["height"]
    box = _box(annotation, width, height)
    return _Instance(annotation, image, box, _area(annotation, box), _keypoints(annotation, width, height, coco.skeleton))


def _skipping_rule(instance: _Instance, *, keep_unlabelled: bool) -> str | None:
    """The rule that skips the instance, or None if it is usable."""
    if instance.annotation.get("iscrowd", 0):
        return "crowd"
    return None if keep_unlabelled or instance.keypoints_K3[:, 2].any() else "no labelled joint"


def _usable(instance: _Instance) -> _Instance:
    """The instance with clipped box and mask, after the checks for usable instances."""
    x, y, w, h = instance.box
    if w <= 0 or h <= 0:
        raise _FaultError("bbox", f"{show(instance.annotation['bbox'])} has no width or no height")
    if instance.area <= 0:
        raise _FaultError("area", f"{show(instance.annotation['area'])} is not above 0")
    image_wh = (instance.image["width"], instance.image["height"])
    clipped: list[float] = trim_box(instance.box, image_size_wh=image_wh).tolist()
    # HRNet moves a box over the left edge instead of clipping it, so the part inside the image is checked separately.
    # HRNet also keeps a box whose clipped sides are both 0, and then divides by them.
    if min(x + w, y + h) <= 0 or min(clipped[2:]) < 0 or max(clipped[2:]) < 1:
        raise _no_pixel(instance.annotation)
    try:
        mask = mask_rle(instance.annotation.get("segmentation"), image_wh=image_wh)
    except SegmentationError as error:
        raise _FaultError("segmentation", str(error)) from error
    return replace(instance, box=clipped, mask=mask)


def _records(instances: Sequence[_Instance], *, aspect_wh: float) -> list[Record]:
    box_N4 = np.array([instance.box for instance in instances], np.float64).reshape(-1, 4)
    center_N2, size_N2 = box_to_center_size(box_N4, aspect_wh=aspect_wh)
    return [
        Record(
            annotation_id=instance.annotation["id"],
            image_id=instance.image["id"],
            file_name=instance.image["file_name"],
            width=instance.image["width"],
            height=instance.image["height"],
            box_4=box_4,
            center_2=center_2,
            size_2=size_2,
            area=instance.area,
            keypoints_K3=instance.keypoints_K3.astype(np.float32),
            mask_rle=instance.mask,
        )
        for instance, box_4, center_2, size_2 in zip(instances, box_N4, center_N2, size_N2, strict=True)
    ]


def _box(annotation: Json, width: int, height: int) -> list[float]:
    """The box as annotated (x, y, w, h)."""
    given = annotation.get("bbox")
    box = finite_numbers(given, 4)
    if box is None:
        raise _FaultError("bbox", f"{show(given)} is not four finite numbers")
    x, y, w, h = box
    if w < 0 or h < 0:
        raise _FaultError("bbox", f"{show(given)} has a negative width or height")
    if x >= width or y >= height or x + w < 0 or y + h < 0:
        raise _FaultError("bbox", f"{show(given)} is outside of the image of {width} x {height}")
    if w > _MAX_BOX_IMAGES * width or h > _MAX_BOX_IMAGES * height:
        raise _FaultError("bbox", f"{show(given)} is more than {_MAX_BOX_IMAGES} times the image of {width} x {height}")
    return box


def _no_pixel(annotation: Json) -> _FaultError:
    """The fault of a box with less than a pixel in the image."""
    fraction = "; fractions of the image's size are not pixels" if max(annotation["bbox"]) <= 1 else ""
    return _FaultError("bbox", f"{show(annotation['bbox'])} has less than a pixel in the image{fraction}")


def _area(annotation: Json, box: Sequence[float]) -> float:
    """The annotated area; OKS divides by it, so with a too large area any pose would be correct."""
    given = annotation.get("area")
    numbers = finite_numbers([given], 1)
    if numbers is None or numbers[0] < 0:
        raise _FaultError("area", f"{show(given)} is not a finite number from 0")
    # One pixel more, since boxes of ignored regions may be flat.
    if numbers[0] > _MAX_AREA_BOXES * (box[2] + 1.0) * (box[3] + 1.0):
        # Then the box is wrong rather than the area.
        if min(box[2:]) == 0:
            raise _FaultError("bbox", f"{show(annotation['bbox'])} has no width or no height")
        if max(box[2:]) < 1:
            raise _no_pixel(annotation)
        raise _FaultError("area", f"{show(given)} is more than {_MAX_AREA_BOXES} times that of the box")
    return numbers[0]


def _keypoints(annotation: Json, width: int, height: int, skeleton: Skeleton) -> F64:
    """Keypoints (K, 3); all zeros if the annotation has none, which is allowed for crowds."""
    try:
        keypoints_K3 = labelled_keypoints(annotation.get("keypoints"), names=skeleton.keypoints, image_wh=(width, height))
    except KeypointsError as error:
        raise _FaultError("keypoints", str(error)) from error
    _check_count(annotation, int(np.count_nonzero(keypoints_K3[:, 2])))
    return keypoints_K3


def _check_count(annotation: Json, labelled: int) -> None:
    count = annotation.get("num_keypoints", labelled)
    if type(count) is not int or count != labelled:
        raise _FaultError("num_keypoints", f"{show(count)}, but {labelled} keypoints have v > 0")


def _truth(annotation: Json, skeleton: Skeleton) -> Json:
    """The fields of the annotation that the evaluation reads; all of them have been checked."""
    keypoints = plain_keypoints(annotation.get("keypoints"), names=skeleton.keypoints)
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
