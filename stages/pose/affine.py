"""Boxes to crops and back: the similarity transform of HRNet, vectorised over leading dimensions.

All geometry is numpy float64. HRNet keeps some values as float32: centres and sizes of boxes, and the three points of a crop's
matrix. These are rounded to float32 here too, so that the matrices are equal; otherwise they differ by 1e-4 px. Boxes are
(x, y, w, h) and sizes (w, h), in image pixels. An affine is a 2x3 matrix from image pixels to crop pixels for
cv2.warpAffine, with pixel centres at whole numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "STRIDE",
    "apply_affine",
    "box_to_center_size",
    "crop_affine",
    "heatmap_size",
    "invert_affine",
    "moved_origin",
    "scale_affine",
    "trim_box",
]

STRIDE = 4
"""Crop pixels for each heatmap pixel, along both axes."""

F64 = npt.NDArray[np.float64]


def heatmap_size(crop_wh: tuple[int, int]) -> tuple[int, int]:
    """The size (W, H) of the heatmaps of a crop."""
    return crop_wh[0] // STRIDE, crop_wh[1] // STRIDE


def trim_box(box_xywh_N4: npt.ArrayLike, *, image_size_wh: tuple[int, int]) -> F64:
    """Clip ground-truth boxes (..., 4) to the image, whose last pixel is W-1 (HRNet, lib/dataset/coco.py).

    As in HRNet, a box inside the image loses one pixel of width and height. A box outside of the image gets a negative width
    or height; the caller must drop it. Boxes of a detector must not be clipped.
    """
    box = np.asarray(box_xywh_N4, np.float64)
    low = np.maximum(box[..., :2], 0.0)
    last_pixel = np.asarray(image_size_wh, np.float64) - 1.0
    high = np.minimum(last_pixel, low + np.maximum(box[..., 2:] - 1.0, 0.0))
    return np.concatenate([low, high - low], axis=-1)


def box_to_center_size(box_N4: npt.ArrayLike, *, aspect_wh: float, padding: float = 1.25) -> tuple[F64, F64]:
    """Centre and padded size (both (..., 2), image pixels) of boxes, with the short side enlarged to the crop's aspect.

    ``aspect_wh`` is width / height of the crop. HRNet's ``scale``, a float32, is this size / 200 (HRNet,
    lib/dataset/coco.py).
    """
    box = np.asarray(box_N4, np.float64)
    x, y, w, h = np.moveaxis(box, -1, 0)
    center = np.stack([x + 0.5 * w, y + 0.5 * h], axis=-1)
    size = np.stack([np.maximum(w, h * aspect_wh), np.maximum(h, w / aspect_wh)], axis=-1)
    scale = (size / 200.0).astype(np.float32) * np.float32(padding)
    return _rounded(center), (scale * np.float32(200)).astype(np.float64)


def crop_affine(
    center_2: npt.ArrayLike,
    size_2: npt.ArrayLike,
    *,
    rotation_deg: npt.ArrayLike,
    size_wh: tuple[int, int],
    flip: npt.ArrayLike = False,
) -> F64:
    """Affine (..., 2, 3) from image pixels to the pixels of a crop of ``size_wh``.

    HRNet's three-point rule (lib/utils/transforms.py) maps three points, each kept as float32: the centre; the point half a
    width above it, rotated (the height of ``size_2`` is not used); and the point at a right angle to both. They map to
    (w_in / 2, h_in / 2), (w_in / 2, h_in / 2 - w_in / 2) and the point at a right angle to those. Without the rounding this
    is ``u = s R (p - c) + d`` with s = w_in / size_w, d = (w_in / 2, h_in / 2) and R = [[cos, sin], [-sin, cos]]: a positive
    rotation turns the image counter-clockwise on the screen.

    With ``flip``, HRNet first mirrors the image, F(x, y) = (W_img - 1 - x, y), takes F(c) as the centre, and warps
    with the same rotation: ``u = s R (F(p) - F(c)) + d``. W_img cancels: F(p) - F(c) = D (p - c), D = diag(-1, 1), so
    ``u = s R D (p - c) + d``. As R(r) D = D R(-r), this equals the crop of rotation -r mirrored by x -> w_in - x, and it is
    computed this way. It is not w_in - 1 - x, since HRNet puts the centre at w_in / 2, half a pixel right of the middle of the
    pixel grid. So reversing the pixels of a crop (w_in - 1 - x) gives an image that is shifted by one pixel to the left; the
    flip test undoes this shift (``flip.flip_merge``).
    """
    mirror = np.where(np.asarray(flip, bool), -1.0, 1.0)
    radians = mirror * np.deg2rad(np.asarray(rotation_deg, np.float64))
    up = np.stack([np.sin(radians), -np.cos(radians)], axis=-1) * np.asarray(size_2, np.float64)[..., :1] / 2.0
    center = _rounded(center_2)
    upper = _rounded(center + up)
    down = _rounded(center - upper)
    third = _rounded(upper + np.stack([-down[..., 1], down[..., 0]], axis=-1))
    half = size_wh[0] / 2.0
    # The columns are the images of the edges from the centre to the other two points.
    linear = np.array([[0.0, -half], [-half, -half]]) @ np.linalg.inv(np.stack([upper - center, third - center], axis=-1))
    middle = np.asarray(size_wh, np.float64) / 2.0
    offset = middle - (linear @ center[..., None])[..., 0]
    affine = np.concatenate([linear, offset[..., None]], axis=-1)
    affine[..., 0, :] *= mirror[..., None]
    affine[..., 0, 2] += np.where(mirror < 0, size_wh[0], 0.0)
    return affine


def _rounded(points: npt.ArrayLike) -> F64:
    """Round to float32, since HRNet stores points so."""
    return np.asarray(points, np.float32).astype(np.float64)


def apply_affine(affine: F64, points: npt.ArrayLike) -> F64:
    """Apply ``affine`` (..., 2, 3) to points (..., K, 2); leading dimensions broadcast."""
    linear = np.swapaxes(affine[..., :2], -1, -2)
    return np.asarray(points, np.float64) @ linear + affine[..., None, :, 2]


def invert_affine(affine: F64) -> F64:
    """The inverse of ``affine`` (..., 2, 3)."""
    inverse = np.linalg.inv(affine[..., :2])
    return np.concatenate([inverse, -inverse @ affine[..., 2:]], axis=-1)


def scale_affine(affine: F64, factor: float) -> F64:
    """The affine with its output scaled: ``factor`` 1/4 turns crop pixels into heatmap pixels.

    HRNet computes the heatmap's matrix by the same rule from the heatmap's size; it is exactly a quarter of the crop's
    matrix, without a half-pixel term.
    """
    return affine * factor


def moved_origin(affine: npt.ArrayLike, corner_xy: tuple[int, int]) -> F64:
    """The affine for a part of the image, whose upper left pixel is at ``corner_xy`` of the image."""
    moved = np.array(affine, np.float64)
    moved[..., 2] += moved[..., :2] @ np.asarray(corner_xy, np.float64)
    return moved
