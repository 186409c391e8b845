"""Object keypoint similarity (OKS) between poses, and the removal of near duplicates by it.

Shape letters: N poses of one image, K joints.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.pose.skeleton import Skeleton

__all__ = ["keypoint_similarity", "oks_matrix", "oks_nms", "tiny_area_share"]

_MIN_AREA_SHARE = 0.1
"""The least median of annotated areas as shares of their boxes. In COCO val2017 it is 0.53, and its smallest share is 0.11."""

F64 = npt.NDArray[np.float64]


def keypoint_similarity(squared_K: F64, area: npt.ArrayLike, *, skeleton: Skeleton) -> F64:
    """exp(-d^2 / (2 area (2 sigma)^2)) of each joint (COCO keypoint evaluation).

    ``squared_K`` [..., K] holds the squared distances d^2, in the same unit as ``area`` [...].
    """
    # np.spacing(1) is COCO's and HRNet's guard against an area of 0.
    guarded = (np.asarray(area, np.float64) + np.spacing(1))[..., None]
    similarity_K: F64 = np.exp(-squared_K / np.square(2 * skeleton.sigmas_K) / guarded / 2)
    return similarity_K


def tiny_area_share(area_N: F64, box_N4: F64) -> float | None:
    """The median share that the annotated areas have of their boxes (x, y, w, h), if it is too small for areas in pixels.

    With tiny areas every OKS is about 0.
    """
    share = float(np.median(area_N / np.prod(box_N4[:, 2:], axis=1)))
    return share if share < _MIN_AREA_SHARE else None


def oks_matrix(keypoints_NK3: npt.ArrayLike, areas_N: npt.ArrayLike, *, skeleton: Skeleton) -> F64:
    """OKS [N, N] of every pair of poses over all joints, regardless of their scores (HRNet, lib/nms/nms.py).

    ``keypoints_NK3`` (x, y, score) and ``areas_N`` in one unit of length; the area of a pair is the mean of both.
    """
    xy_NK2 = np.asarray(keypoints_NK3, np.float64)[..., :2]
    areas = np.asarray(areas_N, np.float64)
    squared_NNK = np.square(xy_NK2[:, None] - xy_NK2[None]).sum(axis=-1)
    oks_NN: F64 = keypoint_similarity(squared_NNK, (areas[:, None] + areas[None]) / 2, skeleton=skeleton).mean(axis=-1)
    return oks_NN


def oks_nms(
    keypoints_NK3: npt.ArrayLike,
    scores_N: npt.ArrayLike,
    areas_N: npt.ArrayLike,
    *,
    skeleton: Skeleton,
    threshold: float = 0.9,
) -> npt.NDArray[np.int64]:
    """Indices of the poses of one image that are kept, the best first: each drops later ones with an OKS above ``threshold``.

    HRNet uses the areas of the padded boxes (``box_to_center_size``). Equal scores keep their order.
    """
    oks_NN = oks_matrix(keypoints_NK3, areas_N, skeleton=skeleton)
    order = np.argsort(-np.asarray(scores_N, np.float64), kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[oks_NN[best, rest] <= threshold]
    return np.asarray(kept, np.int64)
