"""Are the joints of people plausible among each other: left on the left, the face above the ankles, not all on one point?

Each threshold says what is measured on clean data: the 6,352 people of COCO val2017 with joints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stages.findings import Finding
from stages.prepare.people import People
from storage_schemas.formats.skeleton import Skeleton

__all__ = ["implausible_poses"]

_MAX_SWAPPED = 0.5
"""The share of people who face the camera and have their left joint left of the right one in the image. In COCO it is 0.5 % for
eyes and ears, and 3 % for shoulders and hips; these people stand on their head or turn."""

_MIN_SWAPPED = 3
"""One or two people who face the camera prove nothing."""

_FACE = ("nose", "left_eye", "right_eye")
_LEFT = ("left_eye", "left_ear", "left_shoulder", "left_hip")

_ANKLES = ("left_ankle", "right_ankle")

_MAX_BELOW = 0.5
"""The share of people with their face below their ankles. In COCO it is 0.7 %; these people lie or stand on their head."""

_MIN_BELOW = 3
"""One or two people with their face below their ankles prove nothing."""

_SPREAD_JOINTS = 4
"""Fewer joints may be close together: one eye is beside the other."""

_MIN_SPREAD = 0.1
"""The least extent of these joints, as a share of the box along its side. The smallest one in COCO is 0.2."""

_MAX_ONE_POINT = 0.05
"""The share of people whose joints have a smaller extent; in COCO there is none."""

_MIN_ONE_POINT = 3
"""One or two people with all joints on a point prove nothing."""

_MIN_LABELLED_OF = 100
"""In a smaller set a joint may lack labels by chance."""

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def implausible_poses(people: People, split: str, skeleton: Skeleton) -> list[Finding]:
    """What is probably wrong with the joints of a set; on clean data nothing."""
    return [
        *_labels_swapped(people, split, skeleton),
        *_faces_below_ankles(people, split, skeleton),
        *_on_one_point(people, split),
        *_never_labelled(people, split, skeleton),
    ]


def _labels_swapped(people: People, split: str, skeleton: Skeleton) -> Iterator[Finding]:
    """People who face the camera: their left side is on the right of the image."""
    names = skeleton.keypoints
    facing_N = np.logical_and.reduce([people.xyv_NK3[:, names.index(name), 2] == 2 for name in _FACE if name in names])
    found = []
    for left, right in ((left, skeleton.flip[left]) for left, name in enumerate(names) if name in _LEFT):
        judged_N = facing_N & people.labelled_NK[:, left] & people.labelled_NK[:, right]
        swapped_N = judged_N & (people.xyv_NK3[:, left, 0] < people.xyv_NK3[:, right, 0])
        if swapped_N.sum() >= _MIN_SWAPPED and swapped_N.sum() > _MAX_SWAPPED * judged_N.sum():
            found.append((left, right, judged_N, swapped_N))
    if found:
        left, right, judged_N, swapped_N = found[0]
        row, others = int(np.argmax(swapped_N)), [names[left] for left, *_ in found[1:]]
        yield Finding(
            kind="labels_swapped",
            seen=f"{swapped_N.sum()} of {judged_N.sum()} people of the {split} set who face the camera have {names[left]} "
            f"left of {names[right]} in the image, such as {people.name(row)}"
            + (f"; it is the same with {', '.join(others)}" if others else ""),
            remedy="Left is the person's own left side: swap left and right in the annotations, unless the images are mirrored",
            count=int(swapped_N.sum()),
            of=int(judged_N.sum()),
            example=people.records[row].file_name,
        )


def _faces_below_ankles(people: People, split: str, skeleton: Skeleton) -> Iterator[Finding]:
    """People who are upside down; the heights of face and ankles are compared within each person who has both."""
    face_N, ankle_N = (_height(people, skeleton, names) for names in (_FACE, _ANKLES))
    judged_N = np.isfinite(face_N) & np.isfinite(ankle_N)
    below_N = judged_N & (face_N > ankle_N)
    if below_N.sum() >= _MIN_BELOW and below_N.sum() > _MAX_BELOW * judged_N.sum():
        row = int(np.argmax(below_N))
        yield Finding(
            kind="faces_below_ankles",
            seen=f"{below_N.sum()} of {judged_N.sum()} people of the {split} set with labels of both have their face below "
            f"their ankles in the image, such as {people.name(row)}",
            remedy="The joints are probably in another order, or y counts from the bottom of the image: write them from nose "
            "to ankles, with y from the top, unless the images are upside down",
            count=int(below_N.sum()),
            of=int(judged_N.sum()),
            example=people.records[row].file_name,
        )


def _height(people: People, skeleton: Skeleton, names: Sequence[str]) -> F64:
    """The mean y of the labelled joints with these names, NaN without one [N]."""
    joints = [skeleton.keypoints.index(name) for name in names if name in skeleton.keypoints]
    labelled_NJ = people.labelled_NK[:, joints]
    count_N = labelled_NJ.sum(axis=1)
    total_N = np.where(labelled_NJ, people.xyv_NK3[:, joints, 1], 0).sum(axis=1)
    return np.where(count_N > 0, total_N / np.maximum(count_N, 1), np.nan)


def _on_one_point(people: People, split: str) -> Iterator[Finding]:
    judged_N = people.labelled_NK.sum(axis=1) >= _SPREAD_JOINTS
    unknown_NK1 = ~people.labelled_NK[..., None]
    xy_NK2 = people.xyv_NK3[..., :2]
    extent_N2 = np.where(unknown_NK1, -np.inf, xy_NK2).max(axis=1) - np.where(unknown_NK1, np.inf, xy_NK2).min(axis=1)
    point_N = judged_N & np.logical_and.reduce(extent_N2 < _MIN_SPREAD * people.box_N4[:, 2:], axis=1)
    if point_N.sum() >= _MIN_ONE_POINT and point_N.sum() > _MAX_ONE_POINT * judged_N.sum():
        row = int(np.argmax(point_N))
        x, y = xy_NK2[row, people.labelled_NK[row]].mean(axis=0)
        yield Finding(
            kind="joints_on_one_point",
            seen=f"{point_N.sum()} of {judged_N.sum()} people of the {split} set with {_SPREAD_JOINTS} or more labelled joints "
            f"have all of them within {_MIN_SPREAD:.0%} of their box, such as {people.name(row)} at ({x:g}, {y:g})",
            remedy="Write the place of each joint in pixels of the image, and v = 0 for joints without a label",
            count=int(point_N.sum()),
            of=int(judged_N.sum()),
            example=people.records[row].file_name,
        )


def _never_labelled(people: People, split: str, skeleton: Skeleton) -> Iterator[Finding]:
    found = [
        name for name, given in zip(skeleton.keypoints, np.logical_or.reduce(people.labelled_NK), strict=True) if not given
    ]
    if found and len(people.records) >= _MIN_LABELLED_OF:
        yield Finding(
            kind="joints_never_labelled",
            seen=f"None of the {len(people.records)} people of the {split} set has a label for {', '.join(found)}",
            remedy="No network can learn these joints from this set: check v in 'keypoints'",
            count=len(found),
            of=len(skeleton.keypoints),
            example=found[0],
        )
