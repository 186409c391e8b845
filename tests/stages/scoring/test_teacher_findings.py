"""What is probably wrong with a teacher: nothing with a good one, and each fault by its own measure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from stages.pose.skeleton import COCO_17
from stages.scoring.teacher_findings import ScoredTeacher, crossed_sides, exchanged_colours, low_ap, teacher_swapped
from storage_schemas.formats.instances import Instances
from tests.support.instance_samples import make_instances

F32 = npt.NDArray[np.float32]


def _people(num: int, *, labelled: float = 0.8) -> Instances:
    """People of 30 x 40 pixels with joints at chance places, of which a share is labelled."""
    generator = np.random.default_rng(7)
    points = generator.uniform([12, 8], [42, 48], (num, 17, 2))
    visible = 2 * (generator.random((num, 17, 1)) < labelled)
    return make_instances(range(1, num + 1), keypoints_NK3=np.concatenate([points, visible], -1).astype(np.float32))


def _predicted(people: Instances, *, error_px: float, swapped: float = 0.0) -> F32:
    """The labels with an error; left and right are exchanged for the first people, by their share."""
    generator = np.random.default_rng(3)
    poses = people.keypoints_NK3.copy()
    rows = slice(round(swapped * len(poses)))
    poses[rows] = poses[rows][:, list(COCO_17.flip)]
    poses[..., :2] += generator.normal(0, error_px, poses[..., :2].shape)
    poses[..., 2] = 0.9
    return poses


def _teacher(people: Instances, poses: F32, ap: float = 0.6, *, is_given: bool = True) -> ScoredTeacher:
    measured = {name: {"AP": ap if name == "dark" else ap / 2} for name in ("quarter", "dark", "centroid", "soft_argmax")}
    chance = np.random.default_rng(1).uniform(0, 64, poses.shape).astype(np.float32)
    predicted = {"quarter": chance, "dark": poses, "centroid": chance}
    return ScoredTeacher(who="primary teacher", is_given=is_given, instances=people, predicted=predicted, measured=measured)  # type: ignore[arg-type]


def test_a_good_teacher_has_no_finding() -> None:
    people = _people(200)
    teacher = _teacher(people, _predicted(people, error_px=1.5))
    assert low_ap(teacher) == []
    assert teacher_swapped(teacher) == []
    assert exchanged_colours("primary teacher", rgb=0.62, bgr=0.58, people=128) == []


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_exchanged_sides_are_found_by_the_decoder_with_the_best_ap(share: float) -> None:
    people = _people(200)
    [found] = teacher_swapped(_teacher(people, _predicted(people, error_px=1.0, swapped=share)))
    assert found.kind == "teacher_swapped"
    assert found.count / found.of == pytest.approx(share, abs=0.12)
    assert "left_shoulder and right_shoulder" in found.seen
    assert found.example == "annotation 100"


def test_one_exchanged_pair_is_named() -> None:
    people = _people(100)
    poses = _predicted(people, error_px=0.5)
    poses[:, [11, 12]] = poses[:, [12, 11]]
    [found] = teacher_swapped(_teacher(people, poses))
    assert "(left_hip and right_hip)" in found.seen


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_few_people_seen_from_behind_are_no_finding(share: float) -> None:
    people = _people(200)
    assert teacher_swapped(_teacher(people, _predicted(people, error_px=2.0, swapped=share))) == []


@pytest.mark.parametrize("kind", ["chance", "one place", "the centre of each person"])
def test_a_teacher_that_finds_nothing_is_not_said_to_exchange_sides(kind: str) -> None:
    people = _people(200)
    poses = _predicted(people, error_px=0)
    if kind == "chance":
        poses[..., :2] = np.random.default_rng(5).uniform([12, 8], [42, 48], poses[..., :2].shape)
    else:
        poses[..., :2] = 20 if kind == "one place" else people.keypoints_NK3[..., :2].mean(axis=1, keepdims=True)
    assert teacher_swapped(_teacher(people, poses, ap=0.0)) == []


def test_a_joint_counts_as_exchanged_only_within_half_the_distance_of_both_labels() -> None:
    labels = np.zeros((4, 17, 3), np.float32)
    labels[:, 5], labels[:, 6] = [0, 0, 2], [10, 0, 2]
    labels[3, 6, 2] = 0
    poses = np.zeros((4, 17, 3), np.float32)
    poses[:, 5], poses[:, 6] = [10, 4, 1], [0, -4, 1]
    poses[1, 6, :2] = [0, -6]
    poses[2, 5, :2] = [0, 0]
    crossed, labelled = crossed_sides(labels, poses, (5, 6))
    assert crossed.tolist() == [True, False, False, False]
    assert labelled.tolist() == [True, True, True, False]


@pytest.mark.parametrize(("is_given", "remedy"), [(True, "Check its weights"), (False, "Train it for more epochs")])
def test_an_ap_near_zero_is_a_finding(is_given: bool, remedy: str) -> None:
    people = _people(30)
    [found] = low_ap(_teacher(people, _predicted(people, error_px=30), ap=0.012, is_given=is_given))
    assert found.seen == "The AP of the primary teacher on the 30 instances of the validation set is 0.012, near zero"
    assert found.remedy.startswith(remedy)


def test_an_ap_near_zero_with_tiny_areas_blames_the_areas_first() -> None:
    people = _people(30)
    teacher = _teacher(replace(people, area_N=people.area_N / 64**2), _predicted(people, error_px=1), ap=0.0)
    [found] = low_ap(teacher)
    # 900 pixels of a box of 30 x 40 are 0.75 of it.
    assert found.remedy.startswith("The annotated areas have a median of 0.00018 of their boxes, and with such areas the AP")
    assert found.remedy.endswith(". Check its weights, the order of its joints, and how its input is normalised")
    [found] = low_ap(replace(teacher, instances=people))
    assert found.remedy.startswith("Check its weights")


def test_exchanged_colours_are_found_if_they_are_clearly_better() -> None:
    [found] = exchanged_colours("primary teacher", rgb=0.56, bgr=0.62, people=128)
    assert "it expects BGR images" in found.seen
    assert exchanged_colours("primary teacher", rgb=0.0, bgr=0.0, people=128) == []
    assert exchanged_colours("primary teacher", rgb=0.30, bgr=0.32, people=128) == []
