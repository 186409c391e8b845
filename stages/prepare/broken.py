"""What a user reads about broken records: each kind of fault once, with its count and an example, and what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stages.data.coco import FaultKind, Quarantined

__all__ = ["advice_on_faults", "reasons"]

_SHOWN = 5
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
