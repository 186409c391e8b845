"""Crops: image, mask and keypoints go through the same affine."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from stages.data.crops import crop_image, crop_keypoints, crop_mask, heatmap_mask
from stages.pose.affine import crop_affine
from stages.pose.heatmap import encode
from stages.pose.skeleton import COCO_17
from tests.support.instance_samples import IMAGE_PX, mask_rle

# pycocotools 2.0.11 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE_WH = (96, 128)
WIDE_WH = (IMAGE_PX, IMAGE_PX)


def _affine(rotation_deg: float, flip: bool, *, center: tuple[float, float] = (30, 34)) -> npt.NDArray[np.float32]:
    affine = crop_affine(center, (42, 56), rotation_deg=rotation_deg, size_wh=SIZE_WH, flip=flip)
    return affine.astype(np.float32)


def _blob() -> npt.NDArray[np.uint8]:
    """A shape without symmetry."""
    mask = np.zeros((IMAGE_PX, IMAGE_PX), np.uint8)
    cv2.ellipse(mask, (30, 30), (10, 20), 20, 0, 360, 1, -1)
    cv2.rectangle(mask, (34, 12), (50, 24), 1, -1)
    return mask


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation_deg", [0.0, 33.0, -90.0])
def test_the_mask_is_warped_like_the_image(rotation_deg: float, flip: bool) -> None:
    mask, affine = _blob(), _affine(rotation_deg, flip)
    image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    drawn = crop_image(image, affine, size_wh=SIZE_WH)
    cut = crop_mask(mask_rle(mask.astype(bool)), affine, image_wh=WIDE_WH, size_wh=SIZE_WH)
    assert drawn.shape == (SIZE_WH[1], SIZE_WH[0], 3)
    assert cut.shape == (SIZE_WH[1], SIZE_WH[0])
    assert 0.1 < cut.mean() < 0.9
    assert np.array_equal(drawn[..., 0] >= 128, cut.astype(bool))


def test_a_mask_of_a_wide_image_is_not_transposed() -> None:
    mask = np.zeros((20, 50), bool)
    mask[5:10, 40:48] = True
    affine = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert np.array_equal(crop_mask(mask_rle(mask), affine, image_wh=(50, 20), size_wh=(50, 20)).astype(bool), mask)


def test_outside_of_the_image_the_crop_is_black_and_the_mask_empty() -> None:
    white = np.full((IMAGE_PX, IMAGE_PX, 3), 255, np.uint8)
    affine = _affine(0.0, False, center=(0, 0))
    # The image's corner lies at the crop's centre: three quarters are outside.
    crop = crop_image(white, affine, size_wh=SIZE_WH)
    assert (crop[:62] == 0).all()
    assert (crop[:, :46] == 0).all()
    assert (crop[66:, 50:] == 255).all()
    cut = crop_mask(mask_rle(np.ones(WIDE_WH, bool)), affine, image_wh=WIDE_WH, size_wh=SIZE_WH)
    assert np.array_equal(cut.astype(bool), crop[..., 0] >= 128)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, -75.0, 90.0])
def test_keypoints_move_with_their_pixels(rotation_deg: float, flip: bool) -> None:
    affine = _affine(rotation_deg, flip)
    keypoint, position = 9, (24, 40)  # the left wrist
    image = np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8)
    image[position[1], position[0]] = 255
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, keypoint] = (*position, 2)
    moved = crop_keypoints(keypoints, affine[None], np.array([flip]), skeleton=COCO_17)[0]
    light = crop_image(image, affine, size_wh=SIZE_WH)[..., 0].astype(np.float64)
    rows, columns = np.indices(light.shape)
    seen = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    assert light.sum() > 0
    # A left wrist in a mirrored image is a right one.
    expected = 10 if flip else 9
    assert np.flatnonzero(moved[:, 2]).tolist() == [expected]
    assert moved[expected, :2] == pytest.approx(seen, abs=0.1)


def test_only_mirrored_instances_swap_sides() -> None:
    keypoints = np.zeros((2, 17, 3), np.float32)
    keypoints[:, :, 0] = np.arange(17)
    keypoints[:, :, 2] = np.arange(17) % 3
    same = np.array([[[1, 0, 0], [0, 1, 0]]] * 2, np.float32)
    moved = crop_keypoints(keypoints, same, np.array([False, True]), skeleton=COCO_17)
    order = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    assert np.array_equal(moved[0], keypoints[0])
    assert moved[1, :, 0].tolist() == order
    assert moved[1, :, 2].tolist() == [index % 3 for index in order]
    assert moved.dtype == np.float32


def _cells(rows: slice, columns: slice) -> list[list[bool]]:
    """The cells of a mask of 8 x 12 pixels with a rectangle."""
    mask = np.zeros((8, 12), np.uint8)
    mask[rows, columns] = 1
    cells: list[list[bool]] = heatmap_mask(mask).tolist()
    return cells


ALL = slice(None)


# A cell spans the pixels 4j - 2 to 4j + 2, of weights 1 2 2 2 1: eight in all, and five (2 2 1) at the first edge.
@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        (slice(0, 1), [False, False, False]),  # 2 of 5
        (slice(0, 2), [True, False, False]),  # 4 of 5
        (slice(2, 4), [False, False, False]),  # 1 of 5; 1 + 2 of 8
        (slice(2, 5), [False, True, False]),  # 1 of 5; 1 + 2 + 2 of 8
        (slice(4, 7), [False, True, False]),  # 2 + 2 + 1 of 8; 1 of 8
        (slice(5, 7), [False, False, False]),  # 2 + 1 of 8; 1 of 8
        (slice(3, 5), [False, True, False]),  # 2 + 2 of 8, a half exactly
        (slice(8, 12), [False, False, True]),  # pixel 8 itself, 9 and 10: 5 of 8
        (slice(9, 12), [False, False, False]),  # 2 + 1 of 8
    ],
)
def test_a_cell_is_set_if_half_of_the_crop_around_its_pixel_is(columns: slice, cells: list[bool]) -> None:
    assert _cells(ALL, columns) == [cells, cells]
    turned = np.zeros((12, 8), np.uint8)
    turned[columns] = 1
    assert heatmap_mask(turned).T.tolist() == [cells, cells]


def test_both_directions_of_a_cell_count_together() -> None:
    # Rows 2 to 4 give 5 of 8 in the second row; columns 2 to 4 the same in the second column: 25 of 64 is under a half.
    assert _cells(slice(2, 5), slice(2, 5)) == [[False] * 3, [False] * 3]
    # Rows 2 to 5 give 7 of 8: 35 of 64 is over it.
    assert _cells(slice(2, 6), slice(2, 5)) == [[False] * 3, [False, True, False]]


@pytest.mark.parametrize("middle", [16, 20, 32])
def test_the_small_mask_is_aligned_with_the_heatmap(middle: int) -> None:
    """A disc around crop pixel 4j has its centre of mass at heatmap pixel j, like the heatmap of a keypoint there."""
    rows, columns = np.indices((64, 48))
    disc = ((rows - middle) ** 2 + (columns - 24) ** 2 <= 10**2).astype(np.uint8)
    cells = heatmap_mask(disc)
    assert np.argwhere(cells).mean(axis=0) == pytest.approx([middle / 4, 6], abs=1e-9)
    heat_BKHW, _ = encode(torch.tensor([[[24.0, middle]]]), torch.ones(1, 1), size_wh=(12, 16), unbiased=True)
    assert np.argwhere(heat_BKHW[0, 0].numpy() >= 0.5).mean(axis=0) == pytest.approx([middle / 4, 6], abs=1e-9)
