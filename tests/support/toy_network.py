"""The smallest network that fulfils the contract: what someone who adds an architecture writes, in one file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ToyConfig", "ToyNet", "toy"]


@dataclass(frozen=True)
class ToyConfig:
    """The sizes of the toy."""

    channels: int

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> ToyNet:
        """The network with initial weights."""
        return ToyNet(self, num_keypoints=num_keypoints, generator=generator)


def toy(channels: int) -> ToyConfig:
    """The function that the line in the table names."""
    return ToyConfig(channels)


class ToyNet(nn.Module):
    """A strided convolution, and a 1x1 convolution as the head."""

    def __init__(self, config: ToyConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, config.channels, 4, stride=4)
        self.head = nn.Conv2d(config.channels, num_keypoints, 1)
        for layer in (self.conv, self.head):
            nn.init.normal_(layer.weight, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4]."""
        heat_BKHW: Tensor = self.head(torch.relu(self.conv(image_B3hw)))
        return heat_BKHW
