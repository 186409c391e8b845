"""Boxes to crops and back: the similarity transform of HRNet, vectorised over leading dimensions.

All geometry is numpy float64; HRNet's is in part float32, so what it rounds is rounded here too, and comes out equal:
centres and sizes of boxes, and the three points of a crop's matrix, which lie a tenth of a thousandth of a pixel off
where they are not. Boxes are (x, y, w, h), sizes (w, h), in image pixels; an affine is a 2x3 matrix that
takes image pixels to crop pixels, pixel centres at whole numbers, as cv2.warpAffine reads it.
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
    """Cut ground-truth boxes to the image with the last pixel at W-1 (HRNet, lib/dataset/coco.py); shape (..., 4).

    A box inside the image loses one pixel of width and height, as in HRNet. One that misses the image comes back
    with a negative width or height and must be dropped. Detector boxes are not to be trimmed.
    """
    box = np.asarray(box_xywh_N4, np.float64)
    low = np.maximum(box[..., :2], 0.0)
    last_pixel = np.asarray(image_size_wh, np.float64) - 1.0
    high = np.minimum(last_pixel, low + np.maximum(box[..., 2:] - 1.0, 0.0))
    return np.concatenate([low, high - low], axis=-1)


def box_to_center_size(box_N4: npt.ArrayLike, *, aspect_wh: float, padding: float = 1.25) -> tuple[F64, F64]:
    """Centre and padded size (both (..., 2), image pixels) of boxes whose short side is grown to the crop's aspect.

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

    HRNet's three-point rule (lib/utils/transforms.py): the centre, the middle of the box's turned upper edge (half a
    width from it: the height of ``size_2`` is not used) and the point at a right angle to both, each kept as float32,
    go to (w_in / 2, h_in / 2), (w_in / 2, h_in / 2 - w_in / 2) and the point at a right angle to those. But for the
    rounding that is ``u = s R (p - c) + d`` with s = w_in / size_w, d = (w_in / 2, h_in / 2) and
    R = [[cos, sin], [-sin, cos]]: a positive rotation turns the picture counter-clockwise on the screen.

    With ``flip``, HRNet first mirrors the image, F(x, y) = (W_img - 1 - x, y), takes F(c) as the centre, and warps
    with the same rotation: ``u = s R (F(p) - F(c)) + d``. W_img cancels: F(p) - F(c) = D (p - c), D = diag(-1, 1), so
    ``u = s R D (p - c) + d``. As R(r) D = D R(-r), that is the crop of rotation -r mirrored by x -> w_in - x, and so
    it is made here: not w_in - 1 - x, since HRNet puts the centre at w_in / 2, which is half a pixel right of the
    middle of the pixel grid. Reversing the pixels of a crop (w_in - 1 - x) therefore gives another picture, one pixel to the
    left: this is the shift that the flip test has to make good (see ``flip.flip_merge``).
    """
    mirror = np.where(np.asarray(flip, bool), -1.0, 1.0)
    radians = mirror * np.deg2rad(np.asarray(rotation_deg, np.float64))
    up = np.stack([np.sin(radians), -np.cos(radians)], axis=-1) * np.asarray(size_2, np.float64)[..., :1] / 2.0
    center = _rounded(center_2)
    upper = _rounded(center + up)
    down = _rounded(center - upper)
    third = _rounded(upper + np.stack([-down[..., 1], down[..., 0]], axis=-1))
    half = size_wh[0] / 2.0
    # Columns: where the edges from the centre to the other two points go.
    linear = np.array([[0.0, -half], [-half, -half]]) @ np.linalg.inv(np.stack([upper - center, third - center], axis=-1))
    middle = np.asarray(size_wh, np.float64) / 2.0
    offset = middle - (linear @ center[..., None])[..., 0]
    affine = np.concatenate([linear, offset[..., None]], axis=-1)
    affine[..., 0, :] *= mirror[..., None]
    affine[..., 0, 2] += np.where(mirror < 0, size_wh[0], 0.0)
    return affine


def _rounded(points: npt.ArrayLike) -> F64:
    """To float32 and back, as HRNet keeps its points."""
    return np.asarray(points, np.float32).astype(np.float64)


def apply_affine(affine: F64, points: npt.ArrayLike) -> F64:
    """Points (..., K, 2) taken through ``affine`` (..., 2, 3); leading dimensions broadcast."""
    linear = np.swapaxes(affine[..., :2], -1, -2)
    return np.asarray(points, np.float64) @ linear + affine[..., None, :, 2]


def invert_affine(affine: F64) -> F64:
    """The affine (..., 2, 3) that undoes ``affine``."""
    inverse = np.linalg.inv(affine[..., :2])
    return np.concatenate([inverse, -inverse @ affine[..., 2:]], axis=-1)


def scale_affine(affine: F64, factor: float) -> F64:
    """The same map with its output scaled: ``factor`` 1/4 turns crop pixels into heatmap pixels.

    HRNet builds the heatmap's matrix from the heatmap's size by the same rule, which is a quarter of the crop's
    matrix exactly; it has no half-pixel term.
    """
    return affine * factor


def moved_origin(affine: npt.ArrayLike, corner_xy: tuple[int, int]) -> F64:
    """The same map of a part of the picture whose upper left pixel is the picture's ``corner_xy``."""
    moved = np.array(affine, np.float64)
    moved[..., 2] += moved[..., :2] @ np.asarray(corner_xy, np.float64)
    return moved
