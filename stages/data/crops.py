"""Crops of instances: image, mask and keypoints, all by one affine."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from stages.pose.affine import apply_affine
from stages.pose.skeleton import Skeleton

__all__ = ["crop_image", "crop_keypoints", "crop_mask", "heatmap_mask"]

U8 = npt.NDArray[np.uint8]


def crop_image(image_hw3: U8, affine_23: npt.NDArray[np.float32 | np.float64], *, size_wh: tuple[int, int]) -> U8:
    """The crop [h, w, 3] of ``size_wh``, linear interpolation, black outside of the image (HRNet, JointsDataset.py)."""
    return cv2.warpAffine(image_hw3, affine_23, size_wh, flags=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def crop_mask(rle: bytes, affine_23: npt.NDArray[np.float32], *, image_wh: tuple[int, int], size_wh: tuple[int, int]) -> U8:
    """The mask [h, w] of 0 and 1 of the crop: warped like the image, then thresholded at one half."""
    mask_hw = coco_mask.decode({"size": [image_wh[1], image_wh[0]], "counts": rle})
    # The mask is in column order; transposing it with OpenCV is faster than copying it.
    rows_hw = cv2.transpose(mask_hw.T)
    warped = cv2.warpAffine(rows_hw * np.uint8(255), affine_23, size_wh, flags=cv2.INTER_LINEAR)
    return (warped >= 128).astype(np.uint8)


def heatmap_mask(mask_hw: U8) -> npt.NDArray[np.bool_]:
    """The mask [h, w] of 0 and 1 at heatmap size [H, W]: a cell is set if at least half of its crop pixels are.

    Heatmap pixel (i, j) is at crop pixel (4i, 4j), as in the heatmaps (HRNet: no half-pixel term), so its cell is the square
    of 4 x 4 px around the centre of that pixel: rows 4i - 2 to 4i + 2, with half the weight for the outer two, and the same
    for columns. At the upper and left edge only pixels of the crop count.
    """
    height, width = mask_hw.shape
    set_HW = _along_rows(_along_rows(mask_hw).T).T
    all_HW = np.outer(_along_rows(np.ones((height, 1), np.uint8)), _along_rows(np.ones((width, 1), np.uint8)))
    return 2 * set_HW >= all_HW


def _along_rows(pixels_hw: U8) -> U8:
    """For each cell [H, w] the sum of its rows, in halves: at most 8, so that 8 * 8 fits in a byte."""
    before_2w = np.zeros((2, pixels_hw.shape[1]), np.uint8)
    padded_hw = np.concatenate([before_2w, pixels_hw])
    first, second, middle, fourth, last = (padded_hw[tap : tap + len(pixels_hw) : 4] for tap in range(5))
    sums_Hw: U8 = first + 2 * (second + middle + fourth) + last
    return sums_Hw


def crop_keypoints(
    keypoints_NK3: npt.NDArray[np.float32],
    affine_N23: npt.NDArray[np.float32],
    flip_N: npt.NDArray[np.bool_],
    *,
    skeleton: Skeleton,
) -> npt.NDArray[np.float32]:
    """Keypoints [N, K, 3] in crop pixels; a mirrored crop swaps left and right keypoints."""
    xy_NK2 = apply_affine(affine_N23.astype(np.float64), keypoints_NK3[..., :2])
    moved = np.concatenate([xy_NK2, keypoints_NK3[..., 2:]], axis=-1).astype(np.float32)
    return np.where(flip_N[:, None, None], moved[:, list(skeleton.flip)], moved)
