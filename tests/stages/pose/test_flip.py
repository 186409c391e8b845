from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.pose.flip import FlipTest, flip_merge, mirrored
from stages.pose.skeleton import COCO_17
from tests.support.shared_data import shared_data


def test_a_flipped_map_is_mirrored_and_shifted_with_column_0_kept() -> None:
    plain, flipped = torch.zeros(1, 17, 1, 4), torch.zeros(1, 17, 1, 4)
    flipped[0, 0, 0] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    assert flip_merge(plain, flipped, skeleton=COCO_17)[0, 0, 0].tolist() == [20.0, 20.0, 15.0, 10.0]
    assert flip_merge(plain, flipped, skeleton=COCO_17, shift=False)[0, 0, 0].tolist() == [20.0, 15.0, 10.0, 5.0]


def test_left_and_right_keypoints_are_swapped() -> None:
    plain, flipped = torch.zeros(1, 17, 2, 2), torch.zeros(1, 17, 2, 2)
    flipped[0, 9] = 2.0  # the left wrist of the mirrored instance is the right one
    merged = flip_merge(plain, flipped, skeleton=COCO_17)
    assert merged.flatten(2).amax(-1)[0].nonzero().flatten().tolist() == [10]
    assert not flipped[0, 10].any()


def test_merging_equals_that_of_hrnet() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        merged = flip_merge(
            torch.from_numpy(reference["flip_plain"]), torch.from_numpy(reference["flip_mirrored"]), skeleton=COCO_17
        )
        np.testing.assert_allclose(merged.numpy(), reference["flip_merged"], atol=1e-7)


def test_the_exact_flip_test_moves_nothing_and_hrnets_half_a_crop_pixel() -> None:
    # A network that is right everywhere: its map is the image at every fourth column. The nose has no partner to swap with.
    stride, width, centre = 4, 48, 21.3
    columns = torch.arange(width, dtype=torch.float64)
    image_B1hw = torch.exp(-((columns - centre) ** 2) / (2 * 3.0**2)).view(1, 1, 1, width)

    def network(image: torch.Tensor) -> torch.Tensor:
        return image[..., ::stride].expand(1, 17, 1, width // stride)

    def found(flip: FlipTest) -> float:
        merged = flip_merge(network(image_B1hw), network(mirrored(image_B1hw, flip=flip)), skeleton=COCO_17)[0, 0, 0]
        return float((columns[::stride] * merged).sum() / merged.sum())

    plain = network(image_B1hw)[0, 0, 0]
    alone = float((columns[::stride] * plain).sum() / plain.sum())
    assert found("exact") - alone == pytest.approx(0, abs=1e-3)
    assert found("hrnet") - alone == pytest.approx(0.5, abs=0.02)
