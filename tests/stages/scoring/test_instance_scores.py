"""From keypoints to AP, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.pose.skeleton import COCO_17
from stages.scoring.instance_scores import instance_scores, kept_instances, score_poses
from stages.scoring.protocol import Protocol
from storage_schemas.errors import DataError
from storage_schemas.formats.instances import Instances
from tests.support.instance_samples import IMAGE_PX, make_instances


def _poses(people: Instances, score: float = 0.9) -> npt.NDArray[np.float32]:
    poses = people.keypoints_NK3.copy()
    poses[..., 2] = score
    return poses


def test_an_instance_is_scored_by_the_mean_of_the_keypoints_above_the_minimum() -> None:
    poses = np.zeros((3, 17, 3), np.float32)
    poses[0, :4, 2] = [0.8, 0.6, 0.2, 0.1]  # .2 is not above .2: mean of .8 and .6
    poses[1, :, 2] = 0.5
    poses[2, :, 2] = 0.15  # nothing counts
    scores = instance_scores(np.array([0.5, 1.0, 1.0]), poses, min_keypoint_score=float(np.float32(0.2)))
    assert scores == pytest.approx([0.35, 0.5, 0.0])
    assert instance_scores(np.ones(3), poses, min_keypoint_score=0.0) == pytest.approx([1.7 / 4, 0.5, 0.15])


def test_a_duplicate_is_dropped_and_the_better_one_kept() -> None:
    people = make_instances([1, 1])
    assert kept_instances(people, np.array([0.4, 0.6]), _poses(people), threshold=0.9).tolist() == [False, True]


def test_instances_of_different_images_never_drop_each_other() -> None:
    people = make_instances([2, 1, 2, 3])
    scores = np.array([0.9, 0.3, 0.8, 0.1])
    assert kept_instances(people, scores, _poses(people), threshold=0.9).tolist() == [True, True, False, True]


def test_instances_that_stand_apart_are_both_kept() -> None:
    people = make_instances([1, 1])
    poses = _poses(people)
    poses[1, :, 0] += 12
    assert kept_instances(people, np.array([0.4, 0.6]), poses, threshold=0.9).all()


def test_the_area_is_that_of_the_padded_box() -> None:
    """Two poses 4 pixels apart: a joint's similarity is exp(-16 / (2 sigma)^2 / 2 / area)."""
    poses = _poses(make_instances([1, 1]))
    poses[1, :, 0] += 4
    kept = {}
    for side in (16.0, 60.0):
        people = make_instances([1, 1], boxes=[(0, 0, 0.75 * side, side)] * 2)
        area = 1.25**2 * 0.75 * side * side
        oks = np.exp(-16 / (2 * COCO_17.sigmas_K) ** 2 / 2 / area).mean()
        for threshold in (oks - 0.01, oks + 0.01):
            kept[side, threshold > oks] = kept_instances(people, np.array([0.6, 0.4]), poses, threshold=threshold).tolist()
    assert kept == {(side, above): [True, above] for side in (16.0, 60.0) for above in (False, True)}


def _ground_truth(people: Instances) -> dict[str, Any]:
    annotations = [
        {
            "id": int(people.id_N[row]),
            "image_id": int(people.image_id_M[people.image_N[row]]),
            "category_id": 1,
            "iscrowd": 0,
            "area": float(people.area_N[row]),
            "bbox": people.box_N4[row].tolist(),
            "num_keypoints": 17,
            "keypoints": people.keypoints_NK3[row].reshape(-1).tolist(),
        }
        for row in range(len(people.id_N))
    ]
    images = [{"id": int(image), "width": IMAGE_PX, "height": IMAGE_PX} for image in people.image_id_M]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def test_perfect_poses_score_one_and_a_hopeless_half_scores_less() -> None:
    people = make_instances([1, 2, 3, 4])
    truth, protocol = _ground_truth(people), Protocol((192, 256))
    scored = score_poses(truth, people, np.ones(4), _poses(people), protocol)
    assert scored.measured["AP"] == pytest.approx(1.0)
    assert scored.score_N == pytest.approx([0.9] * 4, abs=1e-6)
    assert scored.kept_N.all()
    poses = _poses(people)
    poses[2:, :, :2] = 5000
    scored = score_poses(truth, people, np.ones(4), poses, protocol)
    # Of four people two are found, and come first or tied: recall ends at a half, 51 of 101 points.
    assert scored.measured["AP"] == pytest.approx(51 / 101, abs=1e-6)


def test_a_pose_that_is_not_finite_is_refused() -> None:
    people = make_instances([1])
    poses = _poses(people)
    poses[0, 3, 0] = np.nan
    with pytest.raises(DataError):
        score_poses(_ground_truth(people), people, np.ones(1), poses, Protocol((192, 256)))
