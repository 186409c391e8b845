"""Views: the crops of an augmentation, drawn by a generator keyed by (seed, instance, view).

View 0 is plain; views 1, 2, ... are augmented. Every worker draws the same view of an instance, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.pose.affine import box_to_center_size, crop_affine
from stages.pose.skeleton import Skeleton
from stages.settings import AugmentSettings
from storage_schemas.formats.instances import Instances

__all__ = ["VIEWS_VERSION", "Views", "draw_views"]

VIEWS_VERSION = 3
"""Part of the key of every view; increase it when views or their masks (``crops.py``) change."""

_HALF_BODY_MIN_VISIBLE = 8
_HALF_BODY_MIN_KEYPOINTS = 2
_HALF_BODY_PADDING = 1.5
_MAX_ROTATIONS = 2.0

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """One crop of each instance: ``affine_N23`` takes image pixels to crop pixels; ``flip_N``: whether it mirrors."""

    affine_N23: npt.NDArray[np.float32]
    flip_N: npt.NDArray[np.bool_]


def draw_views(instances: Instances, view: int, *, seed: int, augment: AugmentSettings, size_wh: tuple[int, int]) -> Views:
    """Draw ``view`` of every instance, for crops of ``size_wh`` pixels (HRNet, lib/dataset/JointsDataset.py)."""
    num = len(instances.id_N)
    center_N2, size_N2 = instances.center_N2.copy(), instances.size_N2.copy()
    rotation_N, flip_N = np.zeros(num), np.zeros(num, dtype=bool)
    if view > 0:
        for i in range(num):
            generator = _generator(seed, int(instances.id_N[i]), view)
            crop = (center_N2[i], size_N2[i])
            center_N2[i], size_N2[i], rotation_N[i], flip_N[i] = _augmented(
                generator, *crop, instances.keypoints_NK3[i], instances.skeleton, augment, size_wh[0] / size_wh[1]
            )
    affine_N23 = crop_affine(center_N2, size_N2, rotation_deg=rotation_N, size_wh=size_wh, flip=flip_N)
    return Views(affine_N23.astype(np.float32), flip_N)


def _generator(seed: int, instance_id: int, view: int) -> np.random.Generator:
    # A counter-based generator: each instance and view has its own sequence.
    key = np.array([seed, instance_id], dtype=np.int64).view(np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, view]))


def _augmented(
    generator: np.random.Generator,
    center_2: F64,
    size_2: F64,
    keypoints_K3: npt.NDArray[np.float32],
    skeleton: Skeleton,
    augment: AugmentSettings,
    aspect_wh: float,
) -> tuple[F64, F64, float, bool]:
    """Centre, size, rotation in degrees and flip of one augmented crop, in HRNet's order of drawing."""
    # Unused values are drawn too, so that one setting does not change the values of the others.
    half_body, rotate, flip = generator.random(3)
    upper_normal, scale_normal, rotation_normal = generator.standard_normal(3)
    if half_body < augment.half_body_prob:
        center_2, size_2 = _half_body(keypoints_K3, skeleton, center_2, size_2, aspect_wh, prefer_upper=upper_normal < 0.5)
    size_2 = size_2 * (1.0 + augment.scale * np.clip(scale_normal, -1.0, 1.0))
    rotation = augment.rotation_deg * float(np.clip(rotation_normal, -_MAX_ROTATIONS, _MAX_ROTATIONS))
    return center_2, size_2, rotation if rotate < augment.rotation_prob else 0.0, bool(flip < augment.flip_prob)


def _half_body(
    keypoints_K3: npt.NDArray[np.float32],
    skeleton: Skeleton,
    center_2: F64,
    size_2: F64,
    aspect_wh: float,
    *,
    prefer_upper: bool,
) -> tuple[F64, F64]:
    """The crop of the upper or lower half of an instance with more than eight labelled keypoints; else the given crop."""
    labelled = keypoints_K3[:, 2] > 0
    if labelled.sum() <= _HALF_BODY_MIN_VISIBLE:
        return center_2, size_2
    halves = [keypoints_K3[half][labelled[half], :2] for half in (list(skeleton.upper), list(skeleton.lower))]
    upper, lower = halves
    take_upper = (prefer_upper and len(upper) > _HALF_BODY_MIN_KEYPOINTS) or len(lower) <= _HALF_BODY_MIN_KEYPOINTS
    chosen = upper if take_upper else lower
    extent = np.ptp(chosen, axis=0).astype(np.float64) if len(chosen) >= _HALF_BODY_MIN_KEYPOINTS else np.zeros(2)
    if not extent.any():
        # A single point has no extent to crop; HRNet skips it too.
        return center_2, size_2
    # HRNet uses the mean of the keypoints as the centre, not the middle of their extent.
    _, size = box_to_center_size([0.0, 0.0, *extent], aspect_wh=aspect_wh, padding=_HALF_BODY_PADDING)
    return chosen.mean(axis=0).astype(np.float64), size
