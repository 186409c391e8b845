from __future__ import annotations

import numpy as np
from pycocotools.cocoeval import Params

from stages.pose.skeleton import COCO_KEYPOINTS, FLIP_PERMUTATION, LIMBS, LOWER_BODY, SIGMAS, UPPER_BODY


def test_the_flip_swaps_left_and_right_names_and_undoes_itself() -> None:
    swapped = [COCO_KEYPOINTS[joint] for joint in FLIP_PERMUTATION]
    for name, other in zip(COCO_KEYPOINTS, swapped, strict=True):
        expected = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert other == expected
    assert [FLIP_PERMUTATION[joint] for joint in FLIP_PERMUTATION] == list(range(17))


def test_sigmas_are_those_of_coco_and_cannot_be_changed() -> None:
    np.testing.assert_array_equal(SIGMAS, Params("keypoints").kpt_oks_sigmas)
    assert not SIGMAS.flags.writeable


def test_the_two_body_halves_are_all_joints() -> None:
    assert (*UPPER_BODY, *LOWER_BODY) == tuple(range(17))
    assert {COCO_KEYPOINTS[joint].split("_")[-1] for joint in LOWER_BODY} == {"hip", "knee", "ankle"}


def test_limbs_join_every_joint_and_mirror_onto_themselves() -> None:
    limbs = {frozenset(limb) for limb in LIMBS}
    assert len(limbs) == len(LIMBS) == 19
    assert {joint for limb in LIMBS for joint in limb} == set(range(17))
    assert {frozenset(FLIP_PERMUTATION[joint] for joint in limb) for limb in limbs} == limbs
