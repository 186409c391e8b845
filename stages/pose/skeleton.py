"""The 17 joints of COCO: their names, mirror pairs, OKS sigmas, body halves and limbs."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["COCO_KEYPOINTS", "FLIP_PERMUTATION", "LIMBS", "LOWER_BODY", "SIGMAS", "UPPER_BODY"]

COCO_KEYPOINTS: Final[tuple[str, ...]] = (
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
)

FLIP_PERMUTATION: Final[list[int]] = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
"""Joint -> the joint that takes its place in a mirrored image."""

SIGMAS: Final[npt.NDArray[np.float64]] = (
    np.array([0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]) / 10.0
)
"""Spread of human labels per joint, as a share of sqrt(area) (COCO keypoint evaluation)."""
SIGMAS.setflags(write=False)

UPPER_BODY: Final[tuple[int, ...]] = tuple(range(11))
LOWER_BODY: Final[tuple[int, ...]] = tuple(range(11, 17))

LIMBS: Final[tuple[tuple[int, int], ...]] = (
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
)
"""Pairs of joints to join when a skeleton is drawn: the COCO person skeleton."""
