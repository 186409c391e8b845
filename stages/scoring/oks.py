"""Object keypoint similarity between poses, and the suppression of near duplicates by it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.pose.skeleton import Skeleton

__all__ = ["oks_matrix", "oks_nms"]

F64 = npt.NDArray[np.float64]


def oks_matrix(keypoints_NK3: npt.ArrayLike, areas_N: npt.ArrayLike, *, skeleton: Skeleton) -> F64:
    """OKS (N, N) of every pose with every other, over all keypoints whatever their scores (HRNet, lib/nms/nms.py).

    ``keypoints_NK3`` (x, y, score) and ``areas_N`` in one unit of length; a pair's area is the mean of the two.
    """
    xy_NK2 = np.asarray(keypoints_NK3, np.float64)[..., :2]
    areas = np.asarray(areas_N, np.float64)
    squared_NNK = np.square(xy_NK2[:, None] - xy_NK2[None]).sum(axis=-1)
    # np.spacing(1) is HRNet's and COCO's guard against an area of 0.
    area_NN = (areas[:, None] + areas[None]) / 2 + np.spacing(1)
    oks_NN: F64 = np.exp(-squared_NNK / np.square(2 * skeleton.sigmas_K) / area_NN[..., None] / 2).mean(axis=-1)
    return oks_NN


def oks_nms(
    keypoints_NK3: npt.ArrayLike,
    scores_N: npt.ArrayLike,
    areas_N: npt.ArrayLike,
    *,
    skeleton: Skeleton,
    threshold: float = 0.9,
) -> npt.NDArray[np.int64]:
    """Indices of the poses of one image that stay, best first: greedy, dropping those with OKS > ``threshold``.

    HRNet's areas are those of the padded boxes (``box_to_center_size``). Equal scores keep their order.
    """
    oks_NN = oks_matrix(keypoints_NK3, areas_N, skeleton=skeleton)
    order = np.argsort(-np.asarray(scores_N, np.float64), kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[oks_NN[best, rest] <= threshold]
    return np.asarray(kept, np.int64)
