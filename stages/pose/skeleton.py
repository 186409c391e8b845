"""The joint sets that odkd knows; to add one, add a value here."""

from __future__ import annotations

from typing import Final

from storage_schemas.formats.skeleton import Skeleton

__all__ = ["COCO_17", "Skeleton"]

COCO_17: Final = Skeleton(
    name="coco_17",
    keypoints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    # COCO divides its sigmas by ten (pycocotools, cocoeval.py); the same division gives the same last digit.
    sigmas=tuple(
        tenth / 10.0
        for tenth in (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
    ),
    upper=tuple(range(11)),
    lower=tuple(range(11, 17)),
    limbs=(
        (0, 1),
        (0, 2),
        (1, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
        (5, 6),
        (5, 7),
        (7, 9),
        (6, 8),
        (8, 10),
        (5, 11),
        (6, 12),
        (11, 12),
        (11, 13),
        (13, 15),
        (12, 14),
        (14, 16),
    ),
)
"""COCO's 17 keypoints (names and sigmas from pycocotools, limbs from the COCO annotation files)."""
