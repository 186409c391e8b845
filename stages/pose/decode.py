"""Keypoints from heatmaps, or from their bits.

Letters: B batch, K keypoints, M maps (B*K), H W heatmap pixels. Positions are (x, y) in heatmap pixels, pixel centres at whole
numbers. Maps must be finite: ``binarize.binarize`` marks those that are not.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.pose.affine import STRIDE, apply_affine, invert_affine, scale_affine
from stages.pose.binarize import binarize
from stages.pose.heatmap import sigma_of

__all__ = ["Decoder", "dark_kernel_of", "decode", "decode_bits", "to_image"]

Decoder = Literal["quarter", "dark", "centroid", "soft_argmax"]
_BETA = 160.0
"""How sharp LPN's softmax is."""


def dark_kernel_of(heatmap_wh: tuple[int, int]) -> int:
    """The width in pixels of DARK's blur for maps of (W, H): as in DarkPose 11 at 48x64 and 17 at 72x96; 5 at 24x32."""
    return 2 * int(2.8 * sigma_of(heatmap_wh)) + 1


def decode(heat_BKHW: Tensor, *, decoder: Decoder, dark_kernel: int = 11) -> tuple[Tensor, Tensor]:
    """Positions (B, K, 2) in heatmap pixels and scores (B, K), the map's maximum; both float32.

    - "quarter": the maximum, a quarter pixel toward the larger neighbour (HRNet, lib/core/inference.py).
    - "dark": a Taylor step on the logarithm of the blurred map (DarkPose, arXiv 1910.06278). ``dark_kernel`` is the
      odd width in pixels of the blur, 11 for maps of sigma 2 and 17 for sigma 3; the other decoders ignore it.
    - "soft_argmax": the mean position under the softmax of 160 times the map, a quarter pixel toward the larger neighbour; the
      score is the map there (LPN, lib/core/inference.py).
    - "centroid": the centroid of the connected pixels around the maximum with at least half its value.

    For a map without a positive value, "quarter" and "dark" return (0, 0), as HRNet does, and "centroid" the map's centre.
    """
    heat_BKHW = heat_BKHW.float()
    if decoder == "centroid":
        bits_BKHW, peak_BK, _ = binarize(heat_BKHW, mode="relative", threshold=0.5, min_peak=0.0, keep="peak_component")
        return decode_bits(bits_BKHW, peak_BK)
    heat_MHW, shape = heat_BKHW.flatten(0, 1), heat_BKHW.shape[:2]
    if decoder == "soft_argmax":
        mean_M2, nearest_M2, score_M = _soft_maximum(heat_MHW)
        return (mean_M2 + _quarter_offset(heat_MHW, nearest_M2)).view(*shape, 2), score_M.view(shape)
    xy_M2, score_M = _maximum(heat_MHW)
    offset_M2 = _quarter_offset(heat_MHW, xy_M2) if decoder == "quarter" else _dark_offset(heat_MHW, xy_M2, dark_kernel)
    return (xy_M2.float() + offset_M2).view(*shape, 2), score_M.view(shape)


def decode_bits(bits_BKHW: Tensor, peak_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid of all set bits (B, K, 2) in heatmap pixels, and ``peak_BK`` as the score (B, K); both float32.

    Bits of "peak_component" are one component, so this is its centroid. A keypoint without bits gets the map's centre: it is
    the centre of the instance, so the expected error is smallest there.
    """
    height, width = bits_BKHW.shape[-2:]
    heavy_BKHW = bits_BKHW.float()
    columns_BKW, rows_BKH = heavy_BKHW.sum(dim=-2), heavy_BKHW.sum(dim=-1)
    count_BK = rows_BKH.sum(dim=-1)
    x_BK = columns_BKW @ torch.arange(width, device=bits_BKHW.device).float() / count_BK
    y_BK = rows_BKH @ torch.arange(height, device=bits_BKHW.device).float() / count_BK
    center_2 = x_BK.new_tensor([(width - 1) / 2, (height - 1) / 2])
    xy_BK2 = torch.stack([x_BK, y_BK], dim=-1)
    return torch.where((count_BK > 0)[..., None], xy_BK2, center_2), peak_BK.float()


def to_image(
    xy_BK2: Tensor | npt.NDArray[np.floating], affine_B23: npt.NDArray[np.floating], *, stride: int = STRIDE
) -> npt.NDArray[np.float64]:
    """Heatmap pixels to image pixels, (B, K, 2) float64; ``affine_B23`` takes image pixels to crop pixels.

    Applies the inverse of the heatmap's own affine, without a half-pixel term (HRNet, lib/core/inference.py). If the affine
    mirrors, positions are correct, but left and right keypoints stay swapped; the caller must undo this (``Skeleton.flip``).
    """
    points = xy_BK2.detach().cpu().numpy() if isinstance(xy_BK2, Tensor) else xy_BK2
    heat_affine_B23 = scale_affine(np.asarray(affine_B23, np.float64), 1.0 / stride)
    return apply_affine(invert_affine(heat_affine_B23), points)


def _maximum(heat_MHW: Tensor) -> tuple[Tensor, Tensor]:
    """The first pixel (x, y) with the maximum, or (0, 0) if it is not positive, as int64 (M, 2); and the maximum (M,)."""
    score_M, index_M = heat_MHW.flatten(1).max(dim=-1)
    width = heat_MHW.shape[-1]
    xy_M2 = torch.stack([index_M % width, index_M // width], dim=-1)
    return xy_M2 * (score_M > 0)[:, None], score_M


def _soft_maximum(heat_MHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean position (x, y) under the softmax, float32 (M, 2); the pixel nearest to it, int64 (M, 2); and its value (M,)."""
    height, width = heat_MHW.shape[-2:]
    share_MHW = (_BETA * heat_MHW).flatten(1).softmax(dim=-1).view_as(heat_MHW)
    x_M = share_MHW.sum(dim=-2) @ torch.arange(width, device=heat_MHW.device).float()
    y_M = share_MHW.sum(dim=-1) @ torch.arange(height, device=heat_MHW.device).float()
    mean_M2 = torch.stack([x_M, y_M], dim=-1)
    nearest_M2 = (mean_M2 + 0.5).floor().long()
    maps_M = torch.arange(len(heat_MHW), device=heat_MHW.device)
    return mean_M2, nearest_M2, heat_MHW[maps_M, nearest_M2[:, 1], nearest_M2[:, 0]]


def _patches(heat_MHW: Tensor, xy_M2: Tensor, *, radius: int) -> tuple[Tensor, Tensor]:
    """Square patches (M, 2r+1, 2r+1) around ``xy_M2``, and whether each is usable.

    Usable is the condition of HRNet and DarkPose, ``1 < x < W - r`` (r = 1 or 2), on both axes. Other patches are moved inside
    of the map, and their values must not be used.
    """
    height, width = heat_MHW.shape[-2:]
    x_M, y_M = xy_M2.unbind(dim=-1)
    usable_M = (x_M > 1) & (x_M < width - radius) & (y_M > 1) & (y_M < height - radius)
    span = torch.arange(-radius, radius + 1, device=heat_MHW.device)
    rows_MR1 = (y_M.clamp(radius, height - 1 - radius)[:, None] + span)[:, :, None]
    columns_M1R = (x_M.clamp(radius, width - 1 - radius)[:, None] + span)[:, None, :]
    maps_M11 = torch.arange(len(heat_MHW), device=heat_MHW.device)[:, None, None]
    return heat_MHW[maps_M11, rows_MR1, columns_M1R], usable_M


def _quarter_offset(heat_MHW: Tensor, xy_M2: Tensor) -> Tensor:
    """A quarter pixel toward the larger neighbour on each axis; 0 within a pixel of the border."""
    patch, usable_M = _patches(heat_MHW, xy_M2, radius=1)
    slope_M2 = torch.stack([patch[:, 1, 2] - patch[:, 1, 0], patch[:, 2, 1] - patch[:, 0, 1]], dim=-1)
    return 0.25 * slope_M2.sign() * usable_M[:, None]


def _dark_offset(heat_MHW: Tensor, xy_M2: Tensor, kernel: int) -> Tensor:
    """The Newton step to the maximum of the log-map; 0 near the border and for singular second derivatives."""
    p, usable_M = _patches(_blurred(heat_MHW, kernel), xy_M2, radius=2)
    p = p.clamp_min(1e-10).log()
    dx = 0.5 * (p[:, 2, 3] - p[:, 2, 1])
    dy = 0.5 * (p[:, 3, 2] - p[:, 1, 2])
    dxx = 0.25 * (p[:, 2, 4] - 2 * p[:, 2, 2] + p[:, 2, 0])
    dyy = 0.25 * (p[:, 4, 2] - 2 * p[:, 2, 2] + p[:, 0, 2])
    dxy = 0.25 * (p[:, 3, 3] - p[:, 1, 3] - p[:, 3, 1] + p[:, 1, 1])
    determinant = dxx * dyy - dxy.square()
    step_M2 = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1) / determinant[:, None]
    return torch.where((usable_M & step_M2.isfinite().all(dim=-1))[:, None], step_M2, 0.0)


def _blurred(heat_MHW: Tensor, kernel: int) -> Tensor:
    """The map blurred over zeros and rescaled to its old maximum (DarkPose)."""
    # Two matrix products are several times faster than a convolution of one channel.
    columns_HH, rows_WW = (_blur_matrix(length, kernel).to(heat_MHW) for length in heat_MHW.shape[-2:])
    blurred_MHW = columns_HH @ (heat_MHW @ rows_WW)
    # A map that is 0 everywhere divides 0 by 0; its keypoint is at (0, 0), near the border, so the step is 0.
    factor_M11 = heat_MHW.amax(dim=(-2, -1), keepdim=True) / blurred_MHW.amax(dim=(-2, -1), keepdim=True)
    return blurred_MHW * factor_M11


def _blur_matrix(length: int, kernel: int) -> Tensor:
    """Gaussian blur of one axis as a symmetric (length, length) matrix; the sigma is OpenCV's for that kernel."""
    taps = cv2.getGaussianKernel(kernel, 0)[:, 0]
    reach = kernel // 2
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    matrix = np.where(distance <= reach, taps[np.minimum(distance, reach) + reach], 0.0)
    return torch.from_numpy(matrix)
