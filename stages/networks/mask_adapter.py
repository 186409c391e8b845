"""The senior teacher: a primary network with a small adapter that adds the person's mask to the image.

The paper adds the human segmentation mask to the senior's input (arXiv 2104.10414) and does not say how. Here two convolutions
turn the mask into an addition to the image. This fits any network, and the senior starts with exactly the primary's output.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["MaskAdapter", "SeniorNetwork"]

_HIDDEN = 16
_KERNEL = 5


class MaskAdapter(nn.Module):
    """Turns a mask into an addition to the image; ``generator`` draws the first layer (None: torch's global generator)."""

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, _HIDDEN, _KERNEL, padding=_KERNEL // 2)
        self.last = nn.Conv2d(_HIDDEN, 3, _KERNEL, padding=_KERNEL // 2)
        nn.init.kaiming_uniform_(self.first.weight, a=math.sqrt(5), generator=generator)
        # Zeros, so that the senior starts as its primary; the first layer gets gradients from the second step on.
        for zero in (self.first.bias, self.last.weight, self.last.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, mask_B1hw: Tensor, has_mask_B: Tensor) -> Tensor:
        """[B, 3, h, w] to add to the normalised image; ``has_mask_B`` is 1 where the mask is known and 0 where it is withheld.

        The flag is a separate input channel, so that an unknown mask differs from an empty one.
        """
        known_B1hw = has_mask_B.to(mask_B1hw.dtype).view(-1, 1, 1, 1).expand_as(mask_B1hw)
        inputs_B2hw = torch.cat([mask_B1hw * known_B1hw, known_B1hw], dim=1)
        return cast(Tensor, self.last(torch.relu(self.first(inputs_B2hw))))


class SeniorNetwork(nn.Module):
    """A primary with a mask adapter in front; before training it gives the primary's heatmaps for every mask."""

    def __init__(self, primary: nn.Module, adapter: MaskAdapter) -> None:
        super().__init__()
        self.primary = primary
        self.adapter = adapter

    def forward(self, image_B3hw: Tensor, mask_B1hw: Tensor, has_mask_B: Tensor) -> Tensor:
        """Heatmaps [B, K, H, W] of normalised images [B, 3, h, w], masks of 0 and 1, and flags that are 1 for known masks."""
        return cast(Tensor, self.primary(image_B3hw + self.adapter(mask_B1hw, has_mask_B)))
