"""Annotations in COCO's format for tests: valid ones, and changes to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.pose.skeleton import COCO_17

__all__ = ["IMAGE", "IMAGE_WH", "POSE", "Json", "document", "keypoints", "person", "standing"]

Json = dict[str, Any]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}


def keypoints(*labelled: tuple[float, float, float]) -> list[float]:
    """51 numbers: the given keypoints, then zeros."""
    flat = [value for keypoint in labelled for value in keypoint]
    return flat + [0] * (51 - len(flat))


def person(**changes: Any) -> Json:  # noqa: ANN401
    """A valid annotation on an image of 200 x 100; a change to ``...`` removes the field."""
    record = {
        "id": 10,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [20, 10, 60, 80],
        "area": 2400,
        "keypoints": keypoints((50, 20, 2), (52, 18, 1)),
        "num_keypoints": 2,
        "segmentation": [[20, 10, 80, 10, 80, 90, 20, 90]],
    } | changes
    return {name: value for name, value in record.items() if value is not ...}


POSE = (
    (0.50, 0.08), (0.54, 0.06), (0.46, 0.06), (0.58, 0.08), (0.42, 0.08), (0.66, 0.24), (0.34, 0.24), (0.74, 0.40),
    (0.26, 0.40), (0.78, 0.54), (0.22, 0.54), (0.60, 0.54), (0.40, 0.54), (0.62, 0.74), (0.38, 0.74), (0.62, 0.95),
    (0.38, 0.95),
)  # fmt: skip
"""COCO's joints of a person who stands and faces the camera, as fractions of the box."""

IMAGE_WH = (320, 240)


def standing(number: int, box: tuple[float, float, float, float] | None = None, **changes: Any) -> Json:  # noqa: ANN401
    """A person on image ``number`` with all joints labelled, and an outline of six corners."""
    generator = np.random.default_rng(number)
    if box is None:
        height = generator.uniform(100, 200)
        left, top = generator.uniform((5, 5), (IMAGE_WH[0] - height / 2 - 5, IMAGE_WH[1] - height - 5))
        box = (left, top, height / 2, height)
    x, y, w, h = (round(value, 1) for value in box)
    corners = [(0.3, 0), (0.7, 0), (1, 0.5), (0.7, 1), (0.3, 1), (0, 0.5)]
    record = {
        "id": 100 + number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x, y, w, h],
        "area": round(w * h * 0.6, 1),
        "keypoints": [value for u, v in POSE for value in (round(x + u * w, 1), round(y + v * h, 1), 2)],
        "num_keypoints": 17,
        "segmentation": [[round(value, 1) for u, v in corners for value in (x + u * w, y + v * h)]],
    }
    return {name: value for name, value in (record | changes).items() if value is not ...}


def document(people: Sequence[Json], **category: Any) -> Json:  # noqa: ANN401
    """An annotation file with these people, each on the image of its ``image_id``."""
    width, height = IMAGE_WH
    numbers = dict.fromkeys(person["image_id"] for person in people)
    images = [{"id": number, "file_name": f"{number:06d}.jpg", "width": width, "height": height} for number in numbers]
    person_category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)} | category
    return {"images": images, "annotations": list(people), "categories": [person_category]}
