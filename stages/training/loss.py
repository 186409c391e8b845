"""The loss of heatmaps against ground truth and cached teachers.

Shape letters: B batch, K joints, H W heatmap pixels, P packed bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["blend_targets", "halve", "heatmap_loss", "unpack_bits"]


def unpack_bits(packed_BP: Tensor, *, num_joints: int, heatmap_wh: tuple[int, int]) -> Tensor:
    """Packed uint8 bits to maps of 0 and 1, uint8 [B, K, H, W], on the bits' device; a byte's highest bit is its first pixel.

    Not to floats: writing four times as many bytes would take most of the time, and the loss makes floats of them in passing.
    """
    width, height = heatmap_wh
    if packed_BP.device.type == "cpu":
        # On the same memory, and ten times as fast as shifting and masking there.
        pixels = torch.from_numpy(np.unpackbits(packed_BP.numpy(), axis=-1))
    else:
        pixels = _shifted(packed_BP)
    return pixels.view(len(packed_BP), num_joints, height, width)


def _shifted(packed_BP: Tensor) -> Tensor:
    """The pixels [B, P, 8] of packed bytes, on any device."""
    return (packed_BP[..., None] >> torch.arange(7, -1, -1, device=packed_BP.device, dtype=torch.uint8)) & 1


def halve(heat_BKHW: Tensor) -> Tensor:
    """Maps for a student of half the input size, [B, K, H / 2, W / 2].

    Pixel centres are whole numbers on both sides (HRNet has no half-pixel term), so cell j of the smaller map lies on pixel
    2j of the larger one. The window is centred there, with weights 1 2 1: a mean of 2 x 2 would lie a quarter of a small
    pixel up and left of the labels.
    """
    height, width = heat_BKHW.shape[-2:]
    # Bits come as bytes, in which a quarter is nothing.
    heat_BKHW = heat_BKHW.float()
    tap_3 = heat_BKHW.new_tensor([0.25, 0.5, 0.25])
    kernel_1133 = torch.outer(tap_3, tap_3)[None, None]
    halved = functional.conv2d(heat_BKHW.reshape(-1, 1, height, width), kernel_1133, stride=2, padding=1)
    return halved.view(*heat_BKHW.shape[:-2], height // 2, width // 2)


def blend_targets(sources: Sequence[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One target and weight a joint out of several: (weight, ``seen_BK``, ``heat_BKHW``) each.

    For one joint, the weighted sum of squared distances to several targets is, but for a constant, the summed weight times the
    squared distance to their weighted mean. So the student's maps are compared once.
    """
    weight_BK = torch.stack([weight * seen_BK for weight, seen_BK, _ in sources]).sum(dim=0)
    total = torch.stack([(weight * seen_BK)[..., None, None] * heat_BKHW for weight, seen_BK, heat_BKHW in sources]).sum(dim=0)
    return total / weight_BK.clamp_min(1e-12)[..., None, None], weight_BK


def heatmap_loss(student_BKHW: Tensor, target_BKHW: Tensor, weight_BK: Tensor) -> Tensor:
    """Mean over batch and joints of weight times the mean over pixels of (student - target)^2, without a factor 0.5.

    A joint of weight 0 counts in the mean as 0, as in mmpose's KeypointMSELoss; HRNet's JointsMSELoss has a factor 0.5 more.
    """
    error_BK = (student_BKHW.float() - target_BKHW).square().mean(dim=(-2, -1))
    return (weight_BK * error_BK).mean()
