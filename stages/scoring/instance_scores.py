"""From predicted keypoints to AP: the score of each instance, OKS-NMS within an image, and COCO's numbers.

Shape letters: N instances, K joints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.scoring.coco_ap import evaluate
from stages.scoring.coco_results import coco_results
from stages.scoring.oks import oks_nms
from stages.scoring.protocol import Protocol
from storage_schemas.formats.instances import Instances

__all__ = ["ScoredPoses", "instance_scores", "kept_instances", "score_poses"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPoses:
    """The scores of a network's predictions: COCO's numbers, and what became of each prediction."""

    measured: dict[str, Any]
    """``stages.scoring.coco_ap.Scores`` as a plain dict."""
    score_N: F64
    kept_N: npt.NDArray[np.bool_]
    """False where OKS-NMS dropped the prediction."""


def instance_scores(box_score_N: F64, keypoints_NK3: F32, *, min_keypoint_score: float) -> F64:
    """The box score times the mean of the keypoint scores above the minimum; 0 without any (HRNet, lib/dataset/coco.py)."""
    score_NK = keypoints_NK3[..., 2].astype(np.float64)
    counted_NK = score_NK > min_keypoint_score
    total_N, count_N = (score_NK * counted_NK).sum(axis=1), counted_NK.sum(axis=1)
    score_N: F64 = box_score_N * total_N / np.maximum(count_N, 1)
    return score_N


def kept_instances(instances: Instances, score_N: F64, keypoints_NK3: F32, *, threshold: float) -> npt.NDArray[np.bool_]:
    """Which predictions OKS-NMS keeps in each image; the area is that of the padded box, as in HRNet."""
    kept_N = np.zeros(len(score_N), dtype=bool)
    area_N = instances.size_N2.prod(axis=1)
    for image in np.unique(instances.image_N):
        rows = np.flatnonzero(instances.image_N == image)
        kept = oks_nms(keypoints_NK3[rows], score_N[rows], area_N[rows], skeleton=instances.skeleton, threshold=threshold)
        kept_N[rows[kept]] = True
    return kept_N


def score_poses(
    ground_truth: Mapping[str, Any],
    instances: Instances,
    box_score_N: F64,
    keypoints_NK3: F32,
    protocol: Protocol,
    *,
    image_ids: Collection[int] | None = None,
) -> ScoredPoses:
    """Score one prediction of each instance: (x, y, score) in pixels of the image.

    Raises:
        DataError: predictions that are not finite, or a ground truth without instances.
    """
    score_N = instance_scores(box_score_N, keypoints_NK3, min_keypoint_score=protocol.min_keypoint_score)
    kept_N = kept_instances(instances, score_N, keypoints_NK3, threshold=protocol.nms_threshold)
    image_id_N = instances.image_id_M[instances.image_N]
    results = coco_results(image_id_N[kept_N], score_N[kept_N], keypoints_NK3[kept_N])
    scores = evaluate(ground_truth, results, skeleton=instances.skeleton, image_ids=image_ids)
    return ScoredPoses(asdict(scores), score_N, kept_N)
