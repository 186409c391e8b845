"""Training heatmaps of keypoints, equal to those of HRNet.

Letters: B batch, K keypoints, H W heatmap pixels. Source: HRNet, lib/dataset/JointsDataset.py, ``generate_target``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.pose.affine import STRIDE

__all__ = ["encode", "sigma_of"]


def sigma_of(heatmap_wh: tuple[int, int]) -> float:
    """Sigma in heatmap pixels for maps of (W, H): a 24th of the width.

    HRNet uses 2 at 48x64 and 3 at 72x96 (experiments/coco/hrnet); on smaller maps the spread stays in proportion.
    """
    return heatmap_wh[0] / 24.0


def encode(
    keypoints_BK2: Tensor,
    visible_BK: Tensor,
    *,
    size_wh: tuple[int, int],
    stride: int = STRIDE,
    sigma_px: float = 2.0,
    unbiased: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gaussian maps ``heat_BKHW`` and weights ``weight_BK``, both float32 on the device of ``keypoints_BK2``.

    ``keypoints_BK2`` in crop pixels, ``visible_BK`` labelled where > 0, ``size_wh`` and ``sigma_px`` in heatmap pixels.
    The centre is int(x / stride + 0.5), truncated toward zero; the peak is 1 and everything outside the patch of
    2 * 3 sigma + 1 pixels is 0. The weight is 0 for an unlabelled keypoint, and for a keypoint whose whole patch is outside.
    HRNet tests this as ``upper edge < 0``, so a patch that ends just before pixel 0 has weight 1 and an empty map.

    With ``unbiased`` the centre is x / stride (DarkPose, arXiv 1910.06278), since rounding loses up to half a heatmap pixel,
    which is two pixels of the crop. The weight stays the same.
    """
    width, height = size_wh
    radius = int(3 * sigma_px)
    # Floating point, not integers: a coordinate that is NaN or huge must fail the comparisons below, not wrap around.
    mu_BK2 = torch.trunc(keypoints_BK2 / stride + 0.5)
    limit_2 = mu_BK2.new_tensor([width, height])
    inside_BK = ((mu_BK2 - radius < limit_2) & (mu_BK2 + radius + 1 >= 0)).all(dim=-1)
    weight_BK = (inside_BK & (visible_BK > 0)).float()
    if unbiased:
        mu_BK2 = keypoints_BK2 / stride
    x_BKW = _profile(mu_BK2[..., 0], length=width, radius=radius, sigma_px=sigma_px)
    y_BKH = _profile(mu_BK2[..., 1], length=height, radius=radius, sigma_px=sigma_px)
    heat_BKHW = (y_BKH * weight_BK[..., None])[..., :, None] * x_BKW[..., None, :]
    return heat_BKHW, weight_BK


def _profile(mu_BK: Tensor, *, length: int, radius: int, sigma_px: float) -> Tensor:
    """One axis of the patch: the Gaussian is a product of two, so neither needs H*W exponentials. Shape (B, K, length)."""
    distance = torch.arange(length, device=mu_BK.device, dtype=mu_BK.dtype) - mu_BK[..., None]
    gauss = torch.exp(distance.square() / (-2.0 * sigma_px**2))
    return torch.where(distance.abs() <= radius, gauss, torch.zeros_like(gauss)).float()
