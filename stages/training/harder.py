"""Harder crops for a training: changes of pixels that leave each keypoint where it is, and so the cached targets right.

Teachers answered for the easy crop; the student learns the same answer on a hard one.
Letters: B batch, K keypoints, H W heatmap pixels, h w input pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from stages.pose.affine import STRIDE
from stages.training_settings import HardSettings

__all__ = ["harden"]

Bools = npt.NDArray[np.bool_]

_MOST_JOINTS = 5
"""How many joints are covered at most, as in PoseDual (Xie and others, ICCV 2021)."""
_JOINT_SIDE = 20 / 256
"""The side of the patch over a joint, as a share of the crop's height (PoseDual: 20 of 256 pixels)."""
_CUT_SIDE = (0.1, 0.4)
"""The sides of a random patch, as shares of the crop's sides."""
_BLUR_SIGMA = (0.5, 1.5)
_BLUR_RADIUS = 3


def harden(
    image_B3hw: Tensor, target_BKHW: Tensor, weight_BK: Tensor, settings: HardSettings, generator: np.random.Generator
) -> Tensor:
    """Change normalised images as ``settings`` say; ``generator`` draws the same numbers on each device.

    Args:
        image_B3hw: normalised images; they are not changed in place.
        target_BKHW: what the network learns; joints are where these maps are highest.
        weight_BK: joints of weight 0 are not covered, since their place is unknown.
        settings: the probabilities and strengths.
        generator: draws who is changed and how.
    """
    batch = len(image_B3hw)
    if settings.colour:
        image_B3hw = _recoloured(image_B3hw, settings.colour, generator)
    if settings.blur:
        image_B3hw = _blurred(image_B3hw, generator.random(batch) < settings.blur, generator)
    covered_Bhw = torch.zeros(batch, *image_B3hw.shape[-2:], dtype=torch.bool)
    if settings.joint_cutout:
        _cover_joints(covered_Bhw, target_BKHW, weight_BK, generator.random(batch) < settings.joint_cutout, generator)
    if settings.cutout:
        _cover_patches(covered_Bhw, generator.random(batch) < settings.cutout, generator)
    # 0 is ImageNet's mean colour.
    return image_B3hw.masked_fill(covered_Bhw.to(image_B3hw.device)[:, None], 0.0)


def _recoloured(image_B3hw: Tensor, strength: float, generator: np.random.Generator) -> Tensor:
    """Other contrast and brightness for each image and channel, around the image's own mean."""
    shape = (len(image_B3hw), 3, 1, 1)
    contrast, shift = (
        torch.from_numpy(1 + strength * generator.uniform(-1, 1, shape)).to(image_B3hw),
        torch.from_numpy(strength * generator.uniform(-1, 1, shape)).to(image_B3hw),
    )
    mean_B311 = image_B3hw.mean(dim=(-2, -1), keepdim=True)
    return (image_B3hw - mean_B311) * contrast + mean_B311 + shift


def _blurred(image_B3hw: Tensor, chosen_B: Bools, generator: np.random.Generator) -> Tensor:
    sigma_B = np.where(chosen_B, generator.uniform(*_BLUR_SIGMA, len(chosen_B)), 1e-3)
    offset = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    taps_BT = np.exp(-0.5 * np.square(offset / sigma_B[:, None]))
    taps_BT /= taps_BT.sum(axis=1, keepdims=True)
    batch, _, height, width = image_B3hw.shape
    weight_C1T = torch.from_numpy(np.repeat(taps_BT, 3, axis=0)[:, None]).to(image_B3hw)
    # One group for each image and channel: each has its own kernel.
    padded = functional.pad(image_B3hw, (_BLUR_RADIUS,) * 4, mode="replicate").reshape(1, 3 * batch, height + 6, width + 6)
    rows = functional.conv2d(padded, weight_C1T[:, :, None, :], groups=3 * batch)
    return functional.conv2d(rows, weight_C1T[:, :, :, None], groups=3 * batch).view_as(image_B3hw)


def _cover_joints(
    covered_Bhw: Tensor, target_BKHW: Tensor, weight_BK: Tensor, chosen_B: Bools, generator: np.random.Generator
) -> None:
    """Cover one to five joints of each chosen crop whose place is known."""
    width = target_BKHW.shape[-1]
    place_BK = target_BKHW.flatten(2).argmax(dim=-1).cpu().numpy()
    known_BK = (weight_BK > 0).cpu().numpy()
    side = max(1, round(_JOINT_SIDE * covered_Bhw.shape[1]))
    for row in np.flatnonzero(chosen_B):
        joints = generator.permutation(np.flatnonzero(known_BK[row]))[: generator.integers(1, _MOST_JOINTS + 1)]
        for joint in joints:
            y, x = divmod(int(place_BK[row, joint]), width)
            top, left = (max(0, STRIDE * position - side // 2) for position in (y, x))
            covered_Bhw[row, top : top + side, left : left + side] = True


def _cover_patches(covered_Bhw: Tensor, chosen_B: Bools, generator: np.random.Generator) -> None:
    """Cover one rectangle of each chosen crop."""
    _, height, width = covered_Bhw.shape
    for row in np.flatnonzero(chosen_B):
        sides = [round(share * length) for share, length in zip(generator.uniform(*_CUT_SIDE, 2), (height, width), strict=True)]
        top, left = (int(generator.integers(0, length - side + 1)) for side, length in zip(sides, (height, width), strict=True))
        covered_Bhw[row, top : top + sides[0], left : left + sides[1]] = True
