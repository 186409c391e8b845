"""From keypoints to AP: the score of a person, who is dropped as seen twice, and COCO's numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.scoring.coco_ap import evaluate
from stages.scoring.oks import oks_nms
from stages.settings import EvaluateSettings
from storage_schemas.formats.instances import Instances
from storage_schemas.formats.predictions import coco_results

__all__ = ["kept_people", "person_scores", "score_poses"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def person_scores(box_score_N: F64, keypoints_NK3: F32, *, min_keypoint_score: float) -> F64:
    """The box's score times the mean of the keypoints' scores above the minimum, 0 without any (HRNet, dataset/coco.py)."""
    score_NK = keypoints_NK3[..., 2].astype(np.float64)
    counted_NK = score_NK > min_keypoint_score
    total_N, count_N = (score_NK * counted_NK).sum(axis=1), counted_NK.sum(axis=1)
    score_N: F64 = box_score_N * total_N / np.maximum(count_N, 1)
    return score_N


def kept_people(people: Instances, score_N: F64, keypoints_NK3: F32, *, threshold: float) -> npt.NDArray[np.bool_]:
    """Which people remain after OKS-NMS within each image; the area is the padded box's, as in HRNet."""
    kept_N = np.zeros(len(score_N), dtype=bool)
    area_N = people.size_N2.prod(axis=1)
    for image in np.unique(people.image_N):
        rows = np.flatnonzero(people.image_N == image)
        kept_N[rows[oks_nms(keypoints_NK3[rows], score_N[rows], area_N[rows], threshold=threshold)]] = True
    return kept_N


def score_poses(
    ground_truth: Mapping[str, Any],
    people: Instances,
    box_score_N: F64,
    keypoints_NK3: F32,
    settings: EvaluateSettings,
    *,
    image_ids: Collection[int] | None = None,
) -> tuple[dict[str, Any], F64, npt.NDArray[np.bool_]]:
    """COCO's numbers as a plain dict, with each person's score and whether it was kept.

    Raises:
        DataError: predictions that are not finite, or nobody in the ground truth.
    """
    score_N = person_scores(box_score_N, keypoints_NK3, min_keypoint_score=settings.min_keypoint_score)
    kept_N = kept_people(people, score_N, keypoints_NK3, threshold=settings.nms_threshold)
    image_id_N = people.image_id_M[people.image_N]
    results = coco_results(image_id_N[kept_N], score_N[kept_N], keypoints_NK3[kept_N])
    return asdict(evaluate(ground_truth, results, image_ids=image_ids)), score_N, kept_N
