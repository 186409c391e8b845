from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages.pose.skeleton import COCO_17
from stages.report.instances import best_poses, instance_oks, spread_ranks
from tests.support.instance_samples import make_instances


def columns(**values: list[Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array(rows) for name, rows in values.items()}


def test_oks_uses_only_labelled_joints() -> None:
    truth = np.zeros((17, 3), np.float32)
    truth[[5, 9], 2] = [2, 1]
    poses = np.zeros((2, 17, 3), np.float32)
    poses[1, 5, 0], poses[1, 0, 0] = 6.0, 500.0  # the shoulder is 6 px off; the nose is not labelled
    expected = (math.exp(-36 / (2 * 900 * (2 * COCO_17.sigmas_K[5]) ** 2)) + 1) / 2
    assert instance_oks(poses, truth, 900.0, skeleton=COCO_17) == pytest.approx([1.0, expected])


def test_an_instance_without_labels_has_oks_0() -> None:
    assert instance_oks(np.zeros((1, 17, 3), np.float32), np.zeros((17, 3), np.float32), 900.0, skeleton=COCO_17).tolist() == [
        0.0
    ]


@pytest.mark.parametrize(
    ("num", "wanted", "ranks"), [(8, 4, [1, 3, 5, 7]), (100, 2, [25, 75]), (3, 8, [0, 1, 2]), (0, 8, []), (5, 1, [2])]
)
def test_people_are_taken_at_equal_steps_of_rank(num: int, wanted: int, ranks: list[int]) -> None:
    assert spread_ranks(num, wanted).tolist() == ranks


def test_with_ground_truth_boxes_a_person_has_the_pose_of_its_own_id() -> None:
    people = make_instances([1, 1, 2], ids=[7, 8, 9])
    poses = people.keypoints_NK3[[1, 0]] + np.array([1, 0, 0], np.float32)
    predicted = columns(instance_id=[8, 7], image_id=[1, 1], score=[0.8, 0.7], kept=[True, False])
    found = best_poses(people, predicted, poses, by_id=True)
    assert found.score_N.tolist() == [0.7, 0.8, 0.0]
    assert found.kept_N.tolist() == [False, True, False]
    assert found.oks_N[2] == 0.0
    expected = np.mean(np.exp(-1 / (2 * 900 * (2 * COCO_17.sigmas_K) ** 2)))
    assert found.oks_N[:2] == pytest.approx([expected, expected])


def test_with_detections_a_person_has_the_best_pose_of_its_picture() -> None:
    people = make_instances([1, 2])
    exact = people.keypoints_NK3[0]
    poses = np.stack([exact + 30, exact, exact + 3]).astype(np.float32)
    predicted = columns(instance_id=[0, 1, 2], image_id=[1, 1, 2], score=[0.9, 0.5, 0.4], kept=[True, True, True])
    found = best_poses(people, predicted, poses, by_id=False)
    assert found.score_N.tolist() == [0.5, 0.4]
    assert found.oks_N[0] == pytest.approx(1.0)
    assert 0 < found.oks_N[1] < 1
