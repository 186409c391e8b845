from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.pose.decode import decode
from stages.pose.heatmap import encode
from tests.support.shared_data import shared_data

SIZE_WH = (48, 64)


def encode_one(x: float, y: float, *, visible: float = 1.0) -> tuple[torch.Tensor, float]:
    heat, weight = encode(torch.tensor([[[x, y]]], dtype=torch.float64), torch.tensor([[visible]]), size_wh=SIZE_WH)
    return heat[0, 0], float(weight[0, 0])


def test_a_keypoint_is_a_gaussian_of_sigma_2_on_a_13_pixel_patch() -> None:
    heat, weight = encode_one(81.9, 98.1)  # 81.9 / 4 + .5 = 20.975 -> 20, 98.1 / 4 + .5 = 25.025 -> 25
    assert (weight, heat.dtype, heat.shape) == (1.0, torch.float32, (64, 48))
    assert heat[25, 20] == 1.0
    assert heat[25 + 2, 20 - 3] == pytest.approx(math.exp(-(4 + 9) / 8))
    assert heat[25 - 6, 20 + 6] == pytest.approx(math.exp(-72 / 8))
    assert int((heat > 0).sum()) == 13 * 13


@pytest.mark.parametrize(("x", "mu"), [(-5.9, 0), (-6.0, -1), (1.9, 0), (2.0, 1)])
def test_the_centre_is_truncated_toward_zero(x: float, mu: int) -> None:
    heat, _ = encode_one(x, 40)
    expected = [math.exp(-((column - mu) ** 2) / 8) if abs(column - mu) <= 6 else 0 for column in range(48)]
    assert heat[10].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "weight", "pixels"),
    [
        (-26, 1, 1),  # mu -6: the patch's last column is pixel 0
        (-30, 1, 0),  # mu -7: just outside, yet HRNet keeps the weight
        (-34, 0, 0),  # mu -8
        (212, 1, 1),  # mu 53: the patch's first column is pixel 47
        (214, 0, 0),  # mu 54
        (math.nan, 0, 0),
        (1e30, 0, 0),
    ],
)
def test_the_weight_is_0_only_if_the_whole_patch_is_outside(x: float, weight: int, pixels: int) -> None:
    heat, got = encode_one(x, 128)
    assert got == weight
    assert int((heat > 0).sum()) == 13 * pixels


def test_an_unlabelled_keypoint_has_no_map_and_an_occluded_one_has_one() -> None:
    heat, weight = encode_one(100, 100, visible=0)
    assert (weight, float(heat.abs().sum())) == (0.0, 0.0)
    heat, weight = encode_one(100, 100, visible=2)
    assert (weight, float(heat.max())) == (1.0, 1.0)


def test_sigma_3_has_a_patch_of_19_pixels() -> None:
    keypoints = torch.tensor([[[144.0, 192.0]]])
    heat, _ = encode(keypoints, torch.ones(1, 1), size_wh=(72, 96), sigma_px=3.0)
    assert int((heat > 0).sum()) == 19 * 19
    assert heat[0, 0, 48, 36 + 9] == pytest.approx(math.exp(-81 / 18))


@given(st.floats(0, 189.9), st.floats(0, 253.9))
def test_decoding_a_heatmap_returns_the_keypoint_within_half_a_pixel(x: float, y: float) -> None:
    heat, _ = encode_one(x, y)
    position, score = decode(heat[None, None], decoder="quarter")
    assert float(score) == 1.0
    assert (position[0, 0] - torch.tensor([x / 4, y / 4])).abs().max() <= 0.5 + 1e-5


def test_targets_and_weights_equal_those_of_hrnet() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        joints, visible = torch.from_numpy(reference["joints_input_px"]), torch.from_numpy(reference["joints_visible"])
        heat, weight = encode(joints, visible, size_wh=SIZE_WH)
        np.testing.assert_allclose(heat.numpy(), reference["target"], atol=1e-5)
        np.testing.assert_array_equal(weight.numpy(), reference["target_weight"])
        assert (weight != visible).any()
