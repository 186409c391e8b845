"""The senior teacher: a primary whose image also carries the person's mask, through a small adapter that starts silent.

The paper adds the human segmentation mask to the senior's input (arXiv 2104.10414) and does not say how. Here a convolution
on the mask is added to the image, which fits any network and starts exactly at the primary.
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
    """Mask to an addition to the image; ``generator`` draws the first layer (torch's own generator where it is None)."""

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, _HIDDEN, _KERNEL, padding=_KERNEL // 2)
        self.last = nn.Conv2d(_HIDDEN, 3, _KERNEL, padding=_KERNEL // 2)
        nn.init.kaiming_uniform_(self.first.weight, a=math.sqrt(5), generator=generator)
        # Zero, so that the senior starts as its primary; gradients reach the first layer from the second step on.
        for silent in (self.first.bias, self.last.weight, self.last.bias):
            assert silent is not None
            nn.init.zeros_(silent)

    def forward(self, mask_B1hw: Tensor, has_mask_B: Tensor) -> Tensor:
        """[B, 3, h, w] to add to the normalised image; ``has_mask_B`` is 1 where the mask is known and 0 where it is withheld.

        The flag is a channel of its own, so that an unknown mask differs from a mask without a person.
        """
        known_B1hw = has_mask_B.to(mask_B1hw.dtype).view(-1, 1, 1, 1).expand_as(mask_B1hw)
        inputs_B2hw = torch.cat([mask_B1hw * known_B1hw, known_B1hw], dim=1)
        return cast(Tensor, self.last(torch.relu(self.first(inputs_B2hw))))


class SeniorNetwork(nn.Module):
    """A primary with a mask adapter before its first layer; until trained it gives the primary's heatmaps for every mask."""

    def __init__(self, primary: nn.Module, adapter: MaskAdapter) -> None:
        super().__init__()
        self.primary = primary
        self.adapter = adapter

    def forward(self, image_B3hw: Tensor, mask_B1hw: Tensor, has_mask_B: Tensor) -> Tensor:
        """Heatmaps [B, K, H, W] of normalised images, masks of 0 and 1 at the input's resolution, and which masks are known."""
        return cast(Tensor, self.primary(image_B3hw + self.adapter(mask_B1hw, has_mask_B)))
