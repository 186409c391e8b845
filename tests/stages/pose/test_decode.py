from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.pose.affine import apply_affine, box_to_center_size, crop_affine
from stages.pose.decode import Decoder, decode, decode_bits, to_image
from tests.support.shared_data import shared_data

F64 = npt.NDArray[np.float64]


def gaussian(x: float, y: float, *, sigma: float = 2.0) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def position_of(heat_HW: torch.Tensor, decoder: Decoder) -> list[float]:
    position, _ = decode(heat_HW[None, None], decoder=decoder)
    return [float(value) for value in position[0, 0]]


def dark_by_hand(heat: npt.NDArray[np.float32], kernel: int) -> F64:
    """One map at a time, as DarkPose does it: blur within a border of zeros, rescale, logarithm, Newton step."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    border = kernel // 2
    blurred = cv2.GaussianBlur(np.pad(heat, border), (kernel, kernel), 0)[border:-border, border:-border]
    log = np.log(np.maximum(blurred * (heat.max() / blurred.max()), 1e-10)).astype(np.float64)
    position = np.array([column, row], np.float64)
    if not (1 < column < heat.shape[1] - 2 and 1 < row < heat.shape[0] - 2):
        return position
    p = log[row - 2 : row + 3, column - 2 : column + 3]
    gradient = np.array([(p[2, 3] - p[2, 1]) / 2, (p[3, 2] - p[1, 2]) / 2])
    mixed = (p[3, 3] - p[1, 3] - p[3, 1] + p[1, 1]) / 4
    hessian = np.array([[(p[2, 4] - 2 * p[2, 2] + p[2, 0]) / 4, mixed], [mixed, (p[4, 2] - 2 * p[2, 2] + p[0, 2]) / 4]])
    return position - np.linalg.solve(hessian, gradient)


def test_quarter_steps_toward_the_larger_neighbour_on_each_axis() -> None:
    heat = torch.zeros(8, 8)
    heat[4, 3], heat[4, 4], heat[3, 3], heat[5, 3] = 1.0, 0.5, 0.3, 0.3
    assert position_of(heat, "quarter") == [3.25, 4.0]
    heat[3, 3] = 0.4
    assert position_of(heat, "quarter") == [3.25, 3.75]


@pytest.mark.parametrize(("column", "moves"), [(0, False), (1, False), (2, True), (6, True), (7, False)])
def test_quarter_does_not_move_a_maximum_near_the_border(column: int, moves: bool) -> None:
    heat = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    heat[4, column] = 1.0
    x, y = position_of(heat, "quarter")
    assert (abs(x - column), abs(y - 4)) == ((0.25, 0.25) if moves else (0.0, 0.0))


@pytest.mark.parametrize("decoder", ["quarter", "dark"])
def test_a_map_without_a_positive_value_is_at_the_origin(decoder: Decoder) -> None:
    position, score = decode(torch.full((1, 1, 8, 8), -0.5), decoder=decoder)
    assert (position.tolist(), float(score)) == ([[[0.0, 0.0]]], -0.5)
    position, score = decode(torch.zeros(1, 1, 8, 8), decoder=decoder)
    assert (position.tolist(), float(score)) == ([[[0.0, 0.0]]], 0.0)


@settings(max_examples=40)
@given(st.floats(6, 40), st.floats(6, 56))
def test_each_decoder_finds_the_centre_of_a_gaussian(x: float, y: float) -> None:
    errors: dict[Decoder, float] = {"quarter": 0.26, "dark": 0.01, "centroid": 0.26}
    for decoder, error in errors.items():
        got: F64 = np.array(position_of(gaussian(x, y), decoder))
        assert np.abs(got - [x, y]).max() <= error, decoder


@pytest.mark.parametrize("kernel", [5, 7, 11, 17])
def test_dark_equals_darkposes_step_on_single_maps(kernel: int) -> None:
    rng = np.random.default_rng(kernel)
    centers = rng.uniform(-2, 66, (4, 17, 2)).tolist()
    heat = torch.stack([torch.stack([gaussian(x, y) for x, y in row]) for row in centers])
    heat = heat + 0.3 * gaussian(20, 30, sigma=5.0) + 0.01 * torch.from_numpy(rng.random(heat.shape, np.float32))
    positions, scores = decode(heat, decoder="dark", dark_kernel=kernel)
    assert torch.equal(scores, heat.amax(dim=(-2, -1)))
    expected = [dark_by_hand(one.numpy(), kernel) for one in heat.flatten(0, 1)]
    np.testing.assert_allclose(positions.flatten(0, 1).numpy(), expected, atol=2e-3)


def test_centroid_uses_the_component_of_the_peak() -> None:
    heat = torch.zeros(8, 8)
    heat[2, 1], heat[2, 2], heat[3, 2], heat[3, 3], heat[7, 7] = 0.6, 0.8, 0.5, 0.4, 0.7
    assert position_of(heat, "centroid") == pytest.approx([(1 + 2 + 2 + 3) / 4, (2 + 2 + 3 + 3) / 4])


def test_bits_decode_to_their_centroid_and_no_bits_to_the_middle_of_the_map() -> None:
    bits = torch.zeros(1, 2, 64, 48, dtype=torch.bool)
    bits[0, 0, 10, 5:8] = True
    position, score = decode_bits(bits, torch.tensor([[0.75, 0.125]], dtype=torch.float16))
    assert position.tolist() == [[[6.0, 10.0], [23.5, 31.5]]]
    assert score.tolist() == [[0.75, 0.125]]
    assert (position.dtype, score.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("flip", [False, True])
def test_heatmap_pixels_map_back_to_image_pixels(flip: bool) -> None:
    affine = crop_affine([[100, 50], [30, 40]], [[96, 128]] * 2, rotation_deg=[20, -5], size_wh=(192, 256), flip=flip)
    points = np.random.default_rng(0).uniform(0, 100, (2, 17, 2))
    heat_px = apply_affine(affine, points) / 4
    np.testing.assert_allclose(to_image(heat_px, affine), points, atol=1e-9)
    from_torch = to_image(torch.from_numpy(heat_px).float(), affine.astype(np.float32))
    assert from_torch.dtype == np.float64
    np.testing.assert_allclose(from_torch, points, atol=1e-3)


def test_the_middle_of_the_crop_is_the_centre_of_the_box() -> None:
    affine = crop_affine([[100, 50]], [[96, 128]], rotation_deg=0, size_wh=(192, 256))
    np.testing.assert_allclose(to_image(np.array([[[24.0, 32.0], [25.0, 32.0]]]), affine), [[[100, 50], [102, 50]]])


def test_decoding_equals_that_of_hrnet() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        position, score = decode(torch.from_numpy(reference["decode_heatmaps"]), decoder="quarter")
        center, size = box_to_center_size(reference["box_xywh"][:10], aspect_wh=0.75)
        affine = crop_affine(center, size, rotation_deg=0, size_wh=(192, 256))
        # The reference is float32: 3e-5 at 600 pixels.
        np.testing.assert_allclose(to_image(position, affine), reference["decode_keypoints"], rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(score.numpy(), reference["decode_scores"])


def test_the_soft_argmax_equals_that_of_lpn() -> None:
    with (
        np.load(shared_data("hrnet_reference") / "pose.npz") as maps,
        np.load(shared_data("students_reference") / "decode.npz") as reference,
    ):
        position, score = decode(torch.from_numpy(maps["decode_heatmaps"]), decoder="soft_argmax")
        affine = crop_affine(*box_to_center_size(maps["box_xywh"][:10], aspect_wh=0.75), rotation_deg=0, size_wh=(192, 256))
        np.testing.assert_allclose(to_image(position, affine), reference["softargmax_keypoints"], rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(score.numpy(), reference["softargmax_scores"])


def test_the_soft_argmax_is_the_mean_under_the_softmax_and_steps_a_quarter() -> None:
    heat = torch.zeros(8, 8, dtype=torch.float64)
    heat[4, 3], heat[4, 4] = 1.0, 0.99
    share = np.exp(-160 * 0.01)
    # 62 other pixels weigh nothing. The pixel nearest to the mean is (3, 4), whose right neighbour is the larger one.
    assert position_of(heat, "soft_argmax") == pytest.approx([3 + share / (1 + share) + 0.25, 4.0], abs=1e-4)
    _, score = decode(heat[None, None], decoder="soft_argmax")
    assert float(score) == 1.0
    flat = torch.zeros(8, 8)
    assert position_of(flat, "soft_argmax") == [3.5, 3.5]
