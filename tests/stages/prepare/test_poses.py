"""Sets with joints in a wrong order, on a wrong side or on one point are noticed; a few such people are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stages.pose.skeleton import COCO_17
from tests.support.coco_samples import IMAGE_WH, Json
from tests.support.plausible_samples import found, joints, people


def test_people_whose_left_is_right_are_one_finding(tmp_path: Path) -> None:
    def change(person: Json) -> None:
        triples = [person["keypoints"][3 * joint : 3 * joint + 3] for joint in COCO_17.flip]
        person["keypoints"] = [value for triple in triples for value in triple]

    (finding,) = found(tmp_path, people(5, change))
    assert (finding.kind, finding.count, finding.of) == ("labels_swapped", 5, 5)
    assert "5 of 5 people of the train set who face the camera have left_eye left of right_eye" in finding.seen
    assert finding.seen.endswith("it is the same with left_ear, left_shoulder, left_hip")
    assert found(tmp_path, people(2, change)) == []
    # From behind, the eyes are not visible and nothing is said about the sides.
    for person in (behind := people(5, change)):
        person["keypoints"][5] = person["keypoints"][8] = 1
    assert found(tmp_path, behind) == []


def test_a_joint_that_is_never_labelled_is_a_finding_in_a_large_set(tmp_path: Path) -> None:
    def change(person: Json) -> None:
        person["keypoints"][9:15] = [0] * 6
        person["num_keypoints"] = 15

    (finding,) = found(tmp_path, people(100, change))
    assert (finding.kind, finding.count, finding.of) == ("joints_never_labelled", 2, 17)
    assert "100 people of the train set has a label for left_ear, right_ear" in finding.seen
    assert found(tmp_path, people(99, change)) == []


def reverse(person: Json) -> None:
    """Write the joints from ankles to nose."""
    flat = person["keypoints"]
    person["keypoints"] = [value for start in range(48, -1, -3) for value in flat[start : start + 3]]


def upside_down(person: Json) -> None:
    """Count y from the bottom of the image, in joints, box and outline."""
    height = IMAGE_WH[1]
    x, y, w, h = person["bbox"]
    person["bbox"] = [x, height - y - h, w, h]
    joints(lambda x, y, _: (x, height - y))(person)
    person["segmentation"] = [[height - value if at % 2 else value for at, value in enumerate(person["segmentation"][0])]]


@pytest.mark.parametrize("change", [reverse, upside_down])
def test_people_with_their_face_below_their_ankles_are_a_finding(tmp_path: Path, change: Callable[[Json], None]) -> None:
    (finding,) = found(tmp_path, every := people(20, change))
    assert (finding.kind, finding.count, finding.of) == ("faces_below_ankles", 20, 20)
    assert finding.example == "000001.jpg"
    # The step helps: both changes undo themselves.
    for person in every:
        change(person)
    assert found(tmp_path, every) == []


def test_people_who_lie_or_stand_on_their_head_are_no_finding(tmp_path: Path) -> None:
    every = people(20)
    for person in every[:10]:
        upside_down(person)
    assert found(tmp_path, every) == []
    # People without a label of face or ankles do not count.
    for person in every[10:12]:
        person["keypoints"][45:] = [0] * 6
        person["num_keypoints"] = 15
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of) == ("faces_below_ankles", 10, 18)


def on_one_point(person: Json) -> None:
    """All joints in the middle of the box."""
    joints(lambda x, y, box: (box[0] + box[2] / 2, box[1] + box[3] / 2))(person)


def test_people_with_all_joints_on_one_point_are_a_finding(tmp_path: Path) -> None:
    every = people(60)
    for person in every[:3]:
        on_one_point(person)
    assert found(tmp_path, every) == []
    on_one_point(every[3])
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of) == ("joints_on_one_point", 4, 60)
    x, y, w, h = every[0]["bbox"]
    assert f"such as annotation 101 in 000001.jpg at ({x + w / 2:g}, {y + h / 2:g})" in finding.seen


def test_three_joints_may_be_close_together(tmp_path: Path) -> None:
    def change(person: Json) -> None:
        on_one_point(person)
        person["keypoints"][9:] = [0] * 42
        person["num_keypoints"] = 3

    assert found(tmp_path, people(20, change)) == []
