"""The flip test: the mean of a network's heatmaps for an image and for its mirror image."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.pose.skeleton import Skeleton
from stages.setting_types import FlipTest

__all__ = ["FlipTest", "flip_merge", "mirrored"]


def mirrored(image_BChw: Tensor, *, flip: FlipTest) -> Tensor:
    """Crops or masks, mirrored. With ``exact`` the first column would come from outside of the crop: it repeats the second."""
    reversed_BChw = image_BChw.flip(-1)
    if flip == "hrnet":
        return reversed_BChw
    return torch.cat([reversed_BChw[..., :1], reversed_BChw[..., :-1]], dim=-1)


def flip_merge(heat_BKHW: Tensor, heat_flipped_BKHW: Tensor, *, skeleton: Skeleton, shift: bool = True) -> Tensor:
    """The mean of ``heat_BKHW`` and the mirrored, keypoint-swapped ``heat_flipped_BKHW`` (HRNet, lib/core/function.py).

    ``heat_flipped_BKHW`` is the raw output for the input with reversed columns. ``shift`` moves it one pixel to the right;
    column 0 keeps its value. Crops of ``affine.crop_affine`` need the shift, since their centre is at w / 2 and not at
    (w - 1) / 2; crops in (w - 1) units (UDP) must not have it.
    """
    back_BKHW = heat_flipped_BKHW[:, list(skeleton.flip)].flip(-1)
    if shift:
        back_BKHW = torch.cat([back_BKHW[..., :1], back_BKHW[..., :-1]], dim=-1)
    return (heat_BKHW + back_BKHW) * 0.5
