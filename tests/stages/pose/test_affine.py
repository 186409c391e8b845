from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.pose.affine import apply_affine, box_to_center_size, crop_affine, invert_affine, scale_affine, trim_box
from tests.support.shared_data import shared_data

F64 = npt.NDArray[np.float64]
CROP_WH = (192, 256)


def three_point_affine(center: F64, width: float, rotation_deg: float, size_wh: tuple[int, int]) -> F64:
    """HRNet's rule, written out: three pairs of points, kept as float32, and the matrix that joins them."""
    sin, cos = np.sin(np.deg2rad(rotation_deg)), np.cos(np.deg2rad(rotation_deg))

    def triangle(corner: F64, tip: F64) -> F64:
        points = np.array([corner, tip, tip], np.float32)
        points[2] += [points[1, 1] - points[0, 1], points[0, 0] - points[1, 0]]
        return points.astype(np.float64)

    middle = np.array(size_wh) / 2
    source_32 = triangle(center, center + np.array([width / 2 * sin, -width / 2 * cos]))
    target_32 = triangle(middle, middle + np.array([0, -size_wh[0] / 2]))
    return np.asarray(np.linalg.solve(np.c_[source_32, np.ones(3)], target_32).T, np.float64)


def test_a_narrow_box_grows_to_the_aspect_and_is_padded() -> None:
    center, size = box_to_center_size([[10, 20, 30, 80], [0, 0, 120, 40]], aspect_wh=0.75)
    np.testing.assert_allclose(center, [[25, 60], [60, 20]])
    np.testing.assert_allclose(size, [[60 * 1.25, 80 * 1.25], [120 * 1.25, 160 * 1.25]], rtol=1e-6)
    unpadded = box_to_center_size([0, 0, 30, 40], aspect_wh=0.75, padding=1.0)[1]
    np.testing.assert_allclose(unpadded, [30, 40], rtol=1e-6)


def test_boxes_are_clipped_to_the_last_pixel_and_boxes_outside_get_negative_sides() -> None:
    boxes = [[-5, 10, 20, 30], [90, 40, 50, 50], [10, 10, 5, 5], [200, 10, 5, 5]]
    expected = [[0, 10, 19, 29], [90, 40, 9, 9], [10, 10, 4, 4], [200, 10, -101, 4]]
    np.testing.assert_array_equal(trim_box(boxes, image_size_wh=(100, 50)), expected)


def test_without_rotation_the_crop_is_a_scaling_about_the_centre() -> None:
    affine = crop_affine([100, 50], [96, 999], rotation_deg=0, size_wh=CROP_WH)
    np.testing.assert_allclose(affine, [[2, 0, 96 - 200], [0, 2, 128 - 100]], atol=1e-12)


def test_a_positive_rotation_turns_the_image_counter_clockwise() -> None:
    affine = crop_affine([100, 50], [96, 128], rotation_deg=90, size_wh=CROP_WH)
    right_of_center, below_center = [110, 50], [100, 60]
    np.testing.assert_allclose(apply_affine(affine, [right_of_center]), [[96, 128 - 20]], atol=1e-9)
    np.testing.assert_allclose(apply_affine(affine, [below_center]), [[96 + 20, 128]], atol=1e-9)


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, -75.5])
def test_the_matrix_equals_that_of_the_three_point_rule(rotation_deg: float) -> None:
    affine = crop_affine([311.5, 77.25], [140, 187], rotation_deg=rotation_deg, size_wh=CROP_WH)
    expected = three_point_affine(np.array([311.5, 77.25]), 140, rotation_deg, CROP_WH)
    np.testing.assert_allclose(affine, expected, atol=1e-9)


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, -75.5])
def test_a_flipped_crop_is_hrnets_flip_of_the_image_and_then_the_warp(rotation_deg: float) -> None:
    image_width, center = 640, np.array([311.5, 77.25])
    mirror = np.array([[-1.0, 0, image_width - 1], [0, 1, 0], [0, 0, 1]])
    mirrored_center = np.array([image_width - 1 - center[0], center[1]])
    expected = three_point_affine(mirrored_center, 140, rotation_deg, CROP_WH) @ mirror
    affine = crop_affine(center, [140, 187], rotation_deg=rotation_deg, size_wh=CROP_WH, flip=True)
    np.testing.assert_allclose(affine, expected, atol=1e-4)  # HRNet rounds the mirrored points to float32, ours those
    # the same as the crop of the opposite rotation, mirrored by x -> w - x
    opposite = crop_affine(center, [140, 187], rotation_deg=-rotation_deg, size_wh=CROP_WH)
    mirrored = np.stack([[0, 0, CROP_WH[0]] - opposite[0], opposite[1]])
    np.testing.assert_allclose(affine, mirrored, atol=1e-9)


def test_a_flipped_crop_has_the_pixels_of_the_mirrored_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 81), dtype=np.uint8)
    affine = crop_affine([30, 25], [32, 40], rotation_deg=0, size_wh=(32, 40), flip=True)
    direct = cv2.warpAffine(image, affine, (32, 40))
    of_mirrored = crop_affine([81 - 30 - 1, 25], [32, 40], rotation_deg=0, size_wh=(32, 40))
    np.testing.assert_array_equal(direct, cv2.warpAffine(np.ascontiguousarray(image[:, ::-1]), of_mirrored, (32, 40)))
    # Reversing the columns of the plain crop is another image, shifted by one pixel to the left.
    plain = cv2.warpAffine(image, crop_affine([30, 25], [32, 40], rotation_deg=0, size_wh=(32, 40)), (32, 40))
    np.testing.assert_array_equal(direct[:, 1:], plain[:, ::-1][:, :-1])


def test_a_batch_of_crops_equals_single_crops() -> None:
    rng = np.random.default_rng(1)
    center, size = rng.uniform(0, 400, (2, 3, 2)), rng.uniform(20, 400, (2, 3, 2))
    rotation, flip = rng.uniform(-90, 90, (2, 3)), rng.random((2, 3)) < 0.5
    together = crop_affine(center, size, rotation_deg=rotation, size_wh=CROP_WH, flip=flip)
    assert together.shape == (2, 3, 2, 3)
    assert together.dtype == np.float64
    for index in np.ndindex(2, 3):
        one = crop_affine(center[index], size[index], rotation_deg=rotation[index], size_wh=CROP_WH, flip=bool(flip[index]))
        np.testing.assert_array_equal(together[index], one)


@given(
    st.tuples(*[st.floats(-2000, 2000)] * 2),
    st.floats(1, 3000),
    st.floats(-180, 180),
    st.booleans(),
    st.tuples(*[st.floats(-3000, 3000)] * 2),
)
def test_the_inverse_undoes_the_affine(
    center: tuple[float, float], width: float, rotation: float, flip: bool, point: tuple[float, float]
) -> None:
    affine = crop_affine(center, [width, width], rotation_deg=rotation, size_wh=CROP_WH, flip=flip)
    heat_affine = scale_affine(affine, 0.25)
    np.testing.assert_allclose(4 * apply_affine(heat_affine, [point]), apply_affine(affine, [point]), atol=1e-6)
    back = apply_affine(invert_affine(heat_affine), apply_affine(heat_affine, [point]))
    np.testing.assert_allclose(back, [point], atol=1e-6)


def test_boxes_and_matrices_equal_those_of_hrnet() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        center, size = box_to_center_size(reference["box_xywh"], aspect_wh=0.75)
        np.testing.assert_array_equal(center, reference["center"])
        np.testing.assert_allclose(size / 200, reference["scale"], rtol=1e-7)
        affine = crop_affine(center, size, rotation_deg=reference["rotation_deg"], size_wh=CROP_WH)
        for ours, name in [(affine, "affine_input"), (scale_affine(affine, 0.25), "affine_heatmap")]:
            np.testing.assert_allclose(ours, reference[name], rtol=0, atol=1e-9)


def test_hrnets_matrices_are_the_three_point_rule_in_float32() -> None:
    with np.load(shared_data("hrnet_reference") / "pose.npz") as reference:
        rows = zip(reference["center"], reference["scale"], reference["rotation_deg"], reference["affine_input"], strict=True)
        for center, scale, rotation_deg, expected in rows:
            width = float(scale[0] * np.float32(200))
            affine = three_point_affine(center.astype(np.float64), width, float(rotation_deg), CROP_WH)
            np.testing.assert_allclose(affine, expected, atol=1e-5)
