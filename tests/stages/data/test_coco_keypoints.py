"""A joint without a label costs nothing, whatever its coordinates are; a labelled one needs a point near the image."""

from __future__ import annotations

from typing import Any

import pytest

from stages.data.coco_keypoints import KeypointsError, labelled_keypoints, plain_keypoints

NAMES = ("nose", "left_eye", "right_eye")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "unlabelled",
    [(NAN, NAN, 0), (None, None, 0), ("", "", 0), (10**400, 7, 0), (INF, 3, 0.0), (NAN, NAN, NAN), (None, None, None)],
)
def test_coordinates_of_a_joint_without_a_label_mean_nothing(unlabelled: tuple[Any, Any, Any]) -> None:
    given = [50, 20, 2, *unlabelled, 3.5, 4, 1]
    keypoints_K3 = labelled_keypoints(given, names=NAMES, image_wh=(200, 100))
    assert keypoints_K3.tolist() == [[50, 20, 2], [0, 0, 0], [3.5, 4, 1]]
    assert plain_keypoints(given, names=NAMES) == [50, 20, 2, 0, 0, 0, 3.5, 4, 1]


def test_finite_coordinates_of_a_joint_without_a_label_stay_in_the_ground_truth() -> None:
    for label in (1, 2):
        given = [50, 20, label, -7, 1e30, 0, NAN, NAN, 0]
        assert plain_keypoints(given, names=NAMES) == [50, 20, label, -7, 1e30, 0, 0, 0, 0]
        assert labelled_keypoints(given, names=NAMES, image_wh=(200, 100)).tolist() == [[50, 20, label], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("nothing", [None, [], [0] * 9, [None] * 9])
def test_no_keypoints_are_zeros(nothing: object) -> None:
    assert labelled_keypoints(nothing, names=NAMES, image_wh=(200, 100)).tolist() == [[0, 0, 0]] * 3


@pytest.mark.parametrize(
    ("joint", "reason"),
    [
        ([NAN, 20, 2], r"left_eye is [nan, 20, 2]"),
        ([50, INF, 1], r"left_eye is [50, inf, 1]"),
        ([None, None, 2], r"left_eye is [None, None, 2]"),
        (["50", 20, 2], r"left_eye is ['50', 20, 2]"),
        ([50, 10**400, 2], r"left_eye is [50, "),
        ([True, 20, 2], r"left_eye is [True, 20, 2]"),
        ([50, 20, 3], r"left_eye is [50, 20, 3]"),
        ([50, 20, "2"], r"left_eye is [50, 20, '2']"),
        ([50, 20, None], r"left_eye is [50, 20, None]"),
        ([50, 20, NAN], r"left_eye is [50, 20, nan]"),
        ([50, 20, True], r"left_eye is [50, 20, True]"),
        ([301, 20, 2], r"image of 200 x 100: left_eye is at [301.0, 20.0]"),
        ([50, -51, 2], r"image of 200 x 100: left_eye is at [50.0, -51.0]"),
    ],
)
def test_a_wrong_joint_is_named_with_its_values(joint: list[Any], reason: str) -> None:
    with pytest.raises(KeypointsError) as caught:
        labelled_keypoints([50, 20, 2, *joint, 0, 0, 0], names=NAMES, image_wh=(200, 100))
    assert reason in str(caught.value)
