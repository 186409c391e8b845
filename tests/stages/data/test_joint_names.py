"""Other spellings of COCO's names are accepted; other joints, and COCO's in another order, are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from stages.data.joint_names import names_fault
from stages.pose.skeleton import COCO_17

NAMES = COCO_17.keypoints


def sided(name: str, write: Callable[[str, str], str]) -> str:
    """A name with its side written in another way."""
    side, _, part = name.partition("_")
    return write(side, part) if part else side


@pytest.mark.parametrize(
    "given",
    [
        NAMES,
        [name.replace("_", " ").title() for name in NAMES],
        [name.replace("_", "-") for name in NAMES],
        [name.replace("_", "") for name in NAMES],
        [name.upper() for name in NAMES],
        [sided(name, lambda side, part: f"{part}_{side}") for name in NAMES],
        [sided(name, lambda side, part: f"{side[0].upper()}{part.title()}") for name in NAMES],
        [sided(name, lambda side, part: f"{part}.{side[0]}") for name in NAMES],
        [str(number) for number in range(1, 18)],
        list(range(17)),
        [f"keypoint_{number}" for number in range(17)],
        [f"kp {number:02d}" for number in range(1, 18)],
    ],
)
def test_other_spellings_are_accepted(given: Sequence[object]) -> None:
    assert names_fault(given, COCO_17) is None


def swapped(first: int, second: int) -> list[str]:
    """COCO's names, two of them in each other's place."""
    names = list(NAMES)
    names[first], names[second] = names[second], names[first]
    return names


MOTION_CAPTURE = [
    "pelvis",
    "right_hip",
    "right_knee",
    "right_foot",
    "left_hip",
    "left_knee",
    "left_foot",
    "spine",
    "thorax",
    "neck_base",
    "head",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (NAMES[:14], "14 joints, not 17"),
        ([], "0 joints"),
        (MOTION_CAPTURE, "other joints: number 1 has to be nose"),
        ([*NAMES[:15], "left_toe", "right_toe"], "other joints: number 16 has to be left_ankle"),
        (swapped(1, 2), "another order: number 2 has to be left_eye"),
        ([COCO_17.keypoints[place] for place in COCO_17.flip], "another order: number 2 has to be left_eye"),
        (NAMES[::-1], "another order: number 1 has to be nose"),
        ([name.title() for name in swapped(5, 11)], "another order: number 6 has to be left_shoulder"),
        ([*NAMES[:16], NAMES[15]], "other joints: number 17 has to be right_ankle"),
        (list(range(17, 0, -1)), "other joints: number 1"),
        ([f"{word}{number}" for number, word in enumerate("abcdefghijklmnopq")], "other joints: number 1"),
        ([None, *NAMES[1:]], "other joints: number 1"),
        ([[["nose"]], *NAMES[1:]], "other joints: number 1"),
        (["", *NAMES[1:]], "other joints: number 1"),
        ([True] * 17, "other joints: number 1"),
    ],
)
def test_other_joints_and_another_order_are_not(given: Sequence[object], fault: str) -> None:
    found = names_fault(given, COCO_17)
    assert found is not None
    assert fault in found.text


@pytest.mark.parametrize(
    ("given", "advice", "not_advice"),
    [
        # To leave the names out would train a wrong network, if the order or the joints are known to be wrong.
        (NAMES[::-1], "in the expected order", "remove"),
        (MOTION_CAPTURE, "convert the annotations", "remove"),
        (NAMES[:14], "convert the annotations", "remove"),
        (list("abcdefghijklmnopq"), "remove 'keypoints' from the category; otherwise convert", "order, and their names"),
    ],
)
def test_the_advice_is_about_what_was_found(given: Sequence[object], advice: str, not_advice: str) -> None:
    found = names_fault(given, COCO_17)
    assert found is not None
    assert advice in found.advice
    assert not_advice not in found.advice
