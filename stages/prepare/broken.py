"""What a user reads about broken records: each kind of fault once, with its count and an example, and what to do about it.

If nearly all faults are of boxes, the set may have its boxes in another form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stages.data.coco import CocoFile, FaultKind, Quarantined
from stages.data.coco_keypoints import KeypointsError, labelled_keypoints
from stages.data.images import size_fault
from stages.data.json_file import Json, finite_numbers
from stages.prepare.forms import F64, box_forms, first_fit, held

__all__ = ["advice_on_boxes", "advice_on_faults", "reasons"]

_SHOWN = 5
_NEARLY_ALL = 0.9
_MAX_PX = 1e6
"""A larger number is a box in no form."""
_VALUES = re.compile(r"\[[^\]]*\]|'[^']*'|-?\d[\d.e+-]*|nan|inf")
"""The values in a reason: lists, texts and numbers."""

_ADVICE: dict[FaultKind, str] = {
    "file_name": "write each file_name as a path relative to the image folder",
    "size": "write width and height of each image as whole numbers of pixels",
    "category": "give each annotation the id of one of the categories",
    "iscrowd": "write iscrowd as 0 or 1",
    "bbox": "write bbox as x, y, width, height in pixels of the image",
    "area": "write area as the number of pixels of the person, or as the area of the box",
    "keypoints": "write keypoints as x, y in pixels and v = 0, 1 or 2 for each joint",
    "num_keypoints": "remove num_keypoints or compute it again: it is the number of keypoints with v > 0",
    "segmentation": "remove the wrong segmentations or compute them again: a person may lack one",
    "image": "replace or mend the image files as the reasons say, or remove these images from the annotation file",
}


def reasons(quarantine: Sequence[Quarantined], folder: str) -> list[str]:
    """The faults as lines, the most frequent first: faults that differ only in their values are one line, with an example.

    ``folder`` is the image folder.
    """
    alike: dict[str, list[Quarantined]] = {}
    for item in quarantine:
        alike.setdefault(_VALUES.sub("", item.reason), []).append(item)
    groups = sorted(alike.values(), key=len, reverse=True)
    lines = [
        f"{len(group)} x {group[0].reason} ({'such as ' if len(group) > 1 else ''}{_example(group[0], folder)})"
        for group in groups[:_SHOWN]
    ]
    rest = sum(map(len, groups[_SHOWN:]))
    return [*lines, f"{rest} x other reasons"] if rest else lines


def _example(item: Quarantined, folder: str) -> str:
    annotation = [f"annotation {item.annotation_id}"] if item.annotation_id is not None else []
    image = f"{folder}/{item.file_name}" if item.kind == "image" else f"image {item.image_id}"
    return ", ".join([*annotation, image])


def advice_on_faults(quarantine: Sequence[Quarantined]) -> str:
    """What to do about the kinds of faults, the most frequent first."""
    return "; ".join(_ADVICE[kind] for kind, _ in Counter(item.kind for item in quarantine).most_common(_SHOWN))


def advice_on_boxes(coco: CocoFile, quarantine: Sequence[Quarantined], *, aspect_wh: float) -> str | None:
    """What to do if nearly all faults are of boxes or areas, and boxes in one other form hold the joints of the whole set."""
    kinds = Counter(item.kind for item in quarantine)
    people = [person for annotation in coco.annotations if (person := _box_and_joints(coco, annotation))]
    if kinds["bbox"] + kinds["area"] < _NEARLY_ALL * len(quarantine) or not people:
        return None
    box_N4, image_N2, xyv_NK3 = (np.array(column, np.float64) for column in zip(*people, strict=True))
    xy_NK2, labelled_NK = xyv_NK3[..., :2], xyv_NK3[..., 2] > 0
    forms = box_forms(box_N4, image_N2)
    fitting = {name: held(xy_NK2, form_N4, image_N2, aspect_wh=aspect_wh) for name, form_N4 in forms.items()}
    form = first_fit(fitting, held(xy_NK2, box_N4, image_N2, aspect_wh=aspect_wh), labelled_NK)
    return f"write bbox as x, y, width, height in pixels of the image: the boxes are probably {form}" if form else None


def _box_and_joints(coco: CocoFile, annotation: Json) -> tuple[list[float], tuple[int, int], F64] | None:
    """The box, the image (w, h) and the joints (K, 3) of a person; None if one of them is broken, or no joint has a label."""
    image, box = coco.images[annotation["image_id"]], finite_numbers(annotation.get("bbox"), 4)
    if box is None or max(map(abs, box)) > _MAX_PX or annotation.get("category_id") != coco.person_id:
        return None
    if size_fault(image.get("width"), image.get("height")):
        return None
    width, height = image["width"], image["height"]
    try:
        xyv_K3 = labelled_keypoints(annotation.get("keypoints"), names=coco.skeleton.keypoints, image_wh=(width, height))
    except KeypointsError:
        return None
    return (box, (width, height), xyv_K3) if xyv_K3[:, 2].any() else None
