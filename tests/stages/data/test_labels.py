"""Who has labels, and the share of them that may be used."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stages.data.labels import has_label, labelled
from tests.support.instance_samples import make_instances


def test_the_choice_of_labels_is_a_hash_of_the_annotation_and_a_smaller_share_is_part_of_a_larger_one() -> None:
    chosen = {share: {number for number in range(3000) if has_label(number, share)} for share in (0, 0.1, 0.5, 1)}
    assert chosen[0] == set() < chosen[0.1] < chosen[0.5] < chosen[1] == set(range(3000))
    assert len(chosen[0.1]) == pytest.approx(300, abs=50)
    digest = hashlib.sha256(b"labelled 17").hexdigest()
    assert has_label(17, 0.5) == (digest[0] in "01234567")


def test_people_without_a_labelled_joint_have_none() -> None:
    keypoints = np.zeros((300, 17, 3), np.float32)
    keypoints[:200, 16] = (3, 4, 1)
    people = make_instances([1] * 300, ids=list(range(300)), keypoints_NK3=keypoints)
    assert labelled(people).tolist() == [True] * 200 + [False] * 100
    assert labelled(people, 0.3).tolist() == [row < 200 and has_label(row, 0.3) for row in range(300)]
    assert not labelled(people, 0).any()
