"""A joint set of five keypoints, to show that nothing but the instance table decides how many there are."""

from __future__ import annotations

from stages.pose.skeleton import Skeleton

__all__ = ["TOY_5"]

TOY_5 = Skeleton(
    name="toy_5",
    keypoints=("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    flip=(0, 2, 1, 4, 3),
    sigmas=(0.05, 0.06, 0.06, 0.09, 0.09),
    upper=(0, 1, 2),
    lower=(3, 4),
    limbs=((0, 1), (0, 2), (0, 3), (0, 4)),
)
