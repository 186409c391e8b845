from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from stages.pose.skeleton import COCO_17
from stages.scoring.oks import oks_matrix, oks_nms
from tests.support.shared_data import shared_data


def poses(*shifts: float) -> npt.NDArray[np.float64]:
    """One pose, moved to the right by each of ``shifts`` pixels."""
    pose = np.random.default_rng(0).uniform(0, 100, (17, 3))
    return np.stack([pose + np.array([shift, 0, 0]) for shift in shifts])


def test_oks_is_the_mean_similarity_with_the_mean_of_the_two_areas() -> None:
    oks = oks_matrix(poses(0, 5), [1000, 3000], skeleton=COCO_17)
    expected = sum(math.exp(-25 / (2 * 2000 * (2 * sigma) ** 2)) for sigma in COCO_17.sigmas_K) / 17
    assert oks == pytest.approx(np.array([[1, expected], [expected, 1]]))


def test_a_near_duplicate_goes_and_the_better_score_stays() -> None:
    keypoints, scores, areas = poses(0, 1, 500), [0.3, 0.9, 0.5], [9000, 9000, 9000]
    assert oks_matrix(keypoints, areas, skeleton=COCO_17)[0, 1] > 0.9
    assert oks_nms(keypoints, scores, areas, skeleton=COCO_17).tolist() == [1, 2]


def test_an_oks_equal_to_the_threshold_is_kept() -> None:
    keypoints, areas = poses(0, 5), [1000, 3000]
    threshold = float(oks_matrix(keypoints, areas, skeleton=COCO_17)[0, 1])
    assert oks_nms(keypoints, [1, 0], areas, threshold=threshold, skeleton=COCO_17).tolist() == [0, 1]
    assert oks_nms(keypoints, [1, 0], areas, threshold=threshold - 1e-9, skeleton=COCO_17).tolist() == [0]


def test_equal_scores_keep_their_order_and_no_pose_gives_none() -> None:
    assert oks_nms(poses(0, 0, 500), [0.5, 0.5, 0.5], [100, 100, 100], skeleton=COCO_17).tolist() == [0, 2]
    assert oks_nms(np.zeros((0, 17, 3)), [], [], skeleton=COCO_17).tolist() == []


def test_hrnets_own_matrix_and_suppression_come_out() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        keypoints, areas = reference["nms_keypoints"], reference["nms_areas"]
        np.testing.assert_allclose(oks_matrix(keypoints, areas, skeleton=COCO_17), reference["oks_matrix"], atol=1e-12)
        kept = oks_nms(keypoints, reference["nms_scores"], areas, skeleton=COCO_17)
        assert kept.tolist() == reference["nms_keep"].tolist()
