"""LPN, the lightweight pose network (zhang943/lpn-pytorch, lib/models/lpn.py), with the key names of its authors.

Its published figures are those of a decoder of its own (``soft_argmax`` in ``stages.pose.decode``), on BGR images.
Shapes: image [B, 3, h, w] with h and w multiples of 16 to heatmaps [B, K, h/4, w/4].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import cast

import torch
from torch import Tensor, nn

from stages.networks.initial import draw_normal
from stages.networks.simple_baseline import deconvolution, residual_layer

__all__ = ["LPN", "LPNConfig", "lpn"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_CHANNELS = 256
_LEAST_HIDDEN = 16


@dataclass(frozen=True)
class LPNConfig:
    """The sizes of one LPN."""

    blocks: tuple[int, int, int, int]
    """Blocks of each layer."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> LPN:
        """The network with initial weights."""
        return LPN(self, num_keypoints=num_keypoints, generator=generator)


def lpn(layers: int) -> LPNConfig:
    """The published networks: 50, 101 or 152 layers."""
    return LPNConfig(_BLOCKS[layers])


class _GlobalContext(nn.Module):
    """Adds to each pixel a function of the weighted mean of all pixels (GCNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(_LEAST_HIDDEN, channels // 16)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        weights_BP = self.conv_mask(x).flatten(1).softmax(dim=1)
        context_BC = torch.einsum("bcp,bp->bc", x.flatten(2), weights_BP)
        return cast(Tensor, x + self.channel_add_conv(context_BC[..., None, None]))


class _Block(nn.Module):
    """1x1, 3x3 depthwise and 1x1 convolutions, and the global context."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.att = _GlobalContext(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.att(self.bn3(self.conv3(self.relu(self.bn2(self.conv2(inner))))))
        return cast(Tensor, self.relu(inner + (x if self.downsample is None else self.downsample(x))))


class LPN(nn.Module):
    """A light ResNet to a 16th of the image's size, two grouped deconvolutions, and a heatmap for each keypoint."""

    def __init__(self, config: LPNConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, (blocks, width, stride) in enumerate(zip(config.blocks, (64, 128, 256, 512), (1, 2, 2, 1), strict=True)):
            self.add_module(f"layer{index + 1}", residual_layer(_Block, 1, channels, width, blocks=blocks, stride=stride))
            channels = width
        steps: list[nn.Module] = []
        for _ in range(2):
            steps += deconvolution(channels, _CHANNELS, groups=gcd(channels, _CHANNELS))
            steps += [nn.Conv2d(_CHANNELS, _CHANNELS, 1, bias=False), nn.BatchNorm2d(_CHANNELS), nn.ReLU(inplace=True)]
            channels = _CHANNELS
        self.deconv_layers = nn.Sequential(*steps)
        self.final_layer = nn.Conv2d(_CHANNELS, num_keypoints, 1)
        draw_normal(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4] of normalised images [B, 3, h, w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image_B3hw))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]
        return cast(Tensor, self.final_layer(self.deconv_layers(x)))
