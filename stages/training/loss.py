"""The loss: heatmaps against ground truth and cached targets.

Shape letters: B batch, K joints, H W heatmap pixels, P packed bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LossTerm", "blend_targets", "halve", "heatmap_loss", "unpack_bits"]


@dataclass(frozen=True)
class LossTerm:
    """One term of the loss: its weight, the joints it supervises (0 or 1), and their target heatmaps."""

    weight: float
    seen_BK: Tensor
    heat_BKHW: Tensor


def unpack_bits(packed_BP: Tensor, *, num_keypoints: int, heatmap_wh: tuple[int, int]) -> Tensor:
    """Unpack uint8 bits to maps of 0 and 1, uint8 [B, K, H, W], on the bits' device; a byte's highest bit is its first pixel.

    The maps stay bytes, since writing floats (four times the size) would take most of the time; the loss converts them.
    """
    width, height = heatmap_wh
    if packed_BP.device.type == "cpu":
        # NumPy shares the memory, and is ten times as fast on a CPU as shifting and masking with torch.
        pixels = torch.from_numpy(np.unpackbits(packed_BP.numpy(), axis=-1))
    else:
        pixels = _shifted(packed_BP)
    return pixels.view(len(packed_BP), num_keypoints, height, width)


def _shifted(packed_BP: Tensor) -> Tensor:
    """The pixels [B, P, 8] of packed bytes, on any device."""
    return (packed_BP[..., None] >> torch.arange(7, -1, -1, device=packed_BP.device, dtype=torch.uint8)) & 1


def halve(heat_BKHW: Tensor) -> Tensor:
    """Maps for a student of half the input size, [B, K, H / 2, W / 2].

    Pixel centres have integer coordinates in both maps (HRNet has no half-pixel term), so cell j of the smaller map lies on
    pixel 2j of the larger one. The kernel (weights 1 2 1) is centred there; a mean of 2 x 2 pixels would shift the map a
    quarter of a small pixel up and left of the labels.
    """
    height, width = heat_BKHW.shape[-2:]
    # Bits are bytes, which cannot hold fractions.
    heat_BKHW = heat_BKHW.float()
    tap_3 = heat_BKHW.new_tensor([0.25, 0.5, 0.25])
    kernel_1133 = torch.outer(tap_3, tap_3)[None, None]
    halved = functional.conv2d(heat_BKHW.reshape(-1, 1, height, width), kernel_1133, stride=2, padding=1)
    return halved.view(*heat_BKHW.shape[:-2], height // 2, width // 2)


def blend_targets(terms: Sequence[LossTerm]) -> tuple[Tensor, Tensor]:
    """Blend all terms into one target [B, K, H, W] and one weight [B, K].

    For one joint, the weighted sum of squared distances to several targets equals, up to a constant, the sum of the weights
    times the squared distance to the weighted mean of the targets. So one comparison of the student's maps is enough.
    """
    weight_BK = torch.stack([term.weight * term.seen_BK for term in terms]).sum(dim=0)
    total = torch.stack([(term.weight * term.seen_BK)[..., None, None] * term.heat_BKHW for term in terms]).sum(dim=0)
    return total / weight_BK.clamp_min(1e-12)[..., None, None], weight_BK


def heatmap_loss(student_BKHW: Tensor, target_BKHW: Tensor, weight_BK: Tensor) -> Tensor:
    """Mean over batch and joints of weight times the mean over pixels of (student - target)^2, without a factor 0.5.

    A joint of weight 0 adds 0 to the mean, as in mmpose's KeypointMSELoss. HRNet's JointsMSELoss has the factor 0.5.
    """
    error_BK = (student_BKHW.float() - target_BKHW).square().mean(dim=(-2, -1))
    return (weight_BK * error_BK).mean()
