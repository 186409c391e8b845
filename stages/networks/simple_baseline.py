"""SimpleBaseline: a ResNet and three deconvolutions (microsoft/human-pose-estimation.pytorch, lib/models/pose_resnet.py).

The ResNet's layers have torchvision's names, so that ImageNet weights fit by name. The authors train on BGR images.
Shapes: image [B, 3, h, w] with h and w multiples of 32 to heatmaps [B, K, h/4, w/4].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stages.networks.initial import draw_normal

__all__ = ["SimpleBaseline", "SimpleBaselineConfig", "deconvolution", "residual_layer", "simple_resnet"]

Block = Callable[[int, int, int], nn.Module]
"""Makes a block from its input channels, its width and its stride."""

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_FIRST_WITH_BOTTLENECKS = 50


@dataclass(frozen=True)
class SimpleBaselineConfig:
    """The sizes of one SimpleBaseline."""

    blocks: tuple[int, int, int, int]
    """Residual blocks of each of the ResNet's layers."""
    bottlenecks: bool
    """Blocks of three convolutions, with four times as many channels at their ends; else blocks of two."""
    deconvolutions: int = 3
    channels: int = 256
    """Channels of each deconvolution."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> SimpleBaseline:
        """The network with initial weights."""
        return SimpleBaseline(self, num_keypoints=num_keypoints, generator=generator)


def simple_resnet(layers: int) -> SimpleBaselineConfig:
    """SimpleBaseline with a ResNet of 18, 34, 50, 101 or 152 layers; its authors trained 50, 101 and 152."""
    return SimpleBaselineConfig(_BLOCKS[layers], bottlenecks=layers >= _FIRST_WITH_BOTTLENECKS)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """A projection where the size or the channels change; None for the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class _Basic(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return cast(Tensor, self.relu(inner + (x if self.downsample is None else self.downsample(x))))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4 * channels, H / stride, W / stride]."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(inner)))))
        return cast(Tensor, self.relu(inner + (x if self.downsample is None else self.downsample(x))))


def residual_layer(block: Block, expansion: int, in_channels: int, channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width, of which the first has the stride."""
    rest = (block(channels * expansion, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, channels, stride), *rest)


def deconvolution(in_channels: int, channels: int, *, groups: int = 1) -> Sequence[nn.Module]:
    """Layers that double the size of a map."""
    doubled = nn.ConvTranspose2d(in_channels, channels, 4, 2, 1, groups=groups, bias=False)
    return [doubled, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class SimpleBaseline(nn.Module):
    """A ResNet to a 32nd of the image's size, deconvolutions to a quarter, and a heatmap for each keypoint."""

    def __init__(self, config: SimpleBaselineConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        block = _Bottleneck if config.bottlenecks else _Basic
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, (blocks, width) in enumerate(zip(config.blocks, (64, 128, 256, 512), strict=True)):
            layer = residual_layer(block, block.expansion, channels, width, blocks=blocks, stride=2 if index else 1)
            self.add_module(f"layer{index + 1}", layer)
            channels = width * block.expansion
        steps = [
            layer
            for index in range(config.deconvolutions)
            for layer in deconvolution(config.channels if index else channels, config.channels)
        ]
        self.deconv_layers = nn.Sequential(*steps)
        self.final_layer = nn.Conv2d(config.channels, num_keypoints, 1)
        draw_normal(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4] of normalised images [B, 3, h, w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image_B3hw))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]
        return cast(Tensor, self.final_layer(self.deconv_layers(x)))
