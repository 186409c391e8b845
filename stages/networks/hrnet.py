"""HRNet for poses, with the key names of its authors (HRNet, lib/models/pose_hrnet.py), so that published weights load.

Shapes: image [B, 3, h, w] (normalised RGB, h and w multiples of 32) to heatmaps [B, K, H, W] with H = h/4 and W = w/4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stages.networks.branches import raised, transition
from stages.networks.initial import draw_normal

__all__ = ["HRNet", "HRNetConfig", "hrnet", "hrnet_small", "hrnet_tiny"]


@dataclass(frozen=True)
class HRNetConfig:
    """The sizes of one HRNet; branch b of a stage has ``width * 2**b`` channels."""

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    """Number of modules in stages 2, 3 and 4, which have 2, 3 and 4 branches."""
    blocks: int = 4
    """Basic blocks of each branch in a module."""
    in_channels: int = 3
    stem_blocks: int = 4
    """Bottlenecks of layer1; at widths below 16 they do most of the arithmetic."""
    stem: int = 64
    """Channels of the first two convolutions; a bottleneck of layer1 has four times as many output channels."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> HRNet:
        """The network with initial weights."""
        return HRNet(self, num_keypoints=num_keypoints, generator=generator)


def hrnet(width: int) -> HRNetConfig:
    """The published architecture; its authors trained widths 32 and 48."""
    return HRNetConfig(width)


def hrnet_small(width: int) -> HRNetConfig:
    """One module in each stage and two blocks in each branch."""
    return HRNetConfig(width, modules=(1, 1, 1), blocks=2, stem_blocks=1)


def hrnet_tiny(width: int) -> HRNetConfig:
    """One module in each stage, one block in each branch, and half of the stem's channels."""
    return HRNetConfig(width, modules=(1, 1, 1), blocks=1, stem_blocks=1, stem=32)


def _conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _down(in_channels: int, out_channels: int, *, relu: bool) -> nn.Sequential:
    """A strided 3x3 convolution that halves the map."""
    parts: list[nn.Module] = [_conv3x3(in_channels, out_channels, stride=2), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*parts, nn.ReLU(inplace=True)) if relu else nn.Sequential(*parts)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        inner = self.relu(self.bn1(self.conv1(x)))
        return cast(Tensor, self.relu(self.bn2(self.conv2(inner)) + x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside the identity, or beside a 1x1 projection where the channels change."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 4 * channels, H, W]."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(self.bn3(self.conv3(inner)) + shortcut))


def _fuse_path(channels: Sequence[int], source: int, target: int) -> nn.Module | None:
    """Layers that bring branch ``source`` to the size and the channels of branch ``target``; None for the identity."""
    if source == target:
        return None
    if source > target:
        return raised(channels[source], channels[target], source - target)
    steps = [_down(channels[source], channels[source], relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _down(channels[source], channels[target], relu=False))


class HighResolutionModule(nn.Module):
    """Parallel branches of basic blocks; each of the first ``outputs`` output maps is a sum over all branches."""

    def __init__(self, channels: Sequence[int], *, blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(blocks))) for width in channels)
        # A None in the list has no key in the state dict, as in the authors' code, and the indices of the others stay.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(channels, source, target) for source in range(len(channels)))  # type: ignore[misc]
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map for each branch, each half the size of the one before; returns the first ``outputs`` of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for paths in self.fuse_layers:
            parts = [x if path is None else path(x) for path, x in zip(cast(nn.ModuleList, paths), maps, strict=True)]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            fused.append(self.relu(total))
        return fused


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    return transition(
        before,
        after,
        adapted=lambda old, new: nn.Sequential(_conv3x3(old, new), nn.BatchNorm2d(new), nn.ReLU(inplace=True)),
        lowered=lambda old, new: _down(old, new, relu=True),
    )


def _stage(channels: Sequence[int], *, modules: int, blocks: int, last: bool) -> nn.Sequential:
    """The modules of a stage; the last module of the network computes only the finest map, since the head reads no other."""
    return nn.Sequential(
        *(
            HighResolutionModule(channels, blocks=blocks, outputs=1 if last and index == modules - 1 else len(channels))
            for index in range(modules)
        )
    )


class HRNet(nn.Module):
    """HRNet with ``num_keypoints`` heatmaps; ``generator`` draws the initial weights (None: torch's global generator)."""

    def __init__(self, config: HRNetConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        widths = [config.width * 2**branch for branch in range(4)]
        layer1_out = config.stem * Bottleneck.expansion
        self.conv1 = _conv3x3(config.in_channels, config.stem, stride=2)
        self.bn1 = nn.BatchNorm2d(config.stem)
        self.conv2 = _conv3x3(config.stem, config.stem, stride=2)
        self.bn2 = nn.BatchNorm2d(config.stem)
        self.relu = nn.ReLU(inplace=True)
        rest = (Bottleneck(layer1_out, config.stem) for _ in range(config.stem_blocks - 1))
        self.layer1 = nn.Sequential(Bottleneck(config.stem, config.stem), *rest)
        self.transition1 = _transition([layer1_out], widths[:2])
        self.stage2 = _stage(widths[:2], modules=config.modules[0], blocks=config.blocks, last=False)
        self.transition2 = _transition(widths[:2], widths[:3])
        self.stage3 = _stage(widths[:3], modules=config.modules[1], blocks=config.blocks, last=False)
        self.transition3 = _transition(widths[:3], widths)
        self.stage4 = _stage(widths, modules=config.modules[2], blocks=config.blocks, last=True)
        self.final_layer = nn.Conv2d(config.width, num_keypoints, 1)
        draw_normal(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4] of normalised images [B, 3, h, w]; h and w are multiples of 32."""
        x = self.relu(self.bn1(self.conv1(image_B3hw)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps = [path(x) for path in self.transition1]
        maps = self.stage2(maps)
        maps = self.stage3(_enter(self.transition2, maps))
        maps = self.stage4(_enter(self.transition3, maps))
        return cast(Tensor, self.final_layer(maps[0]))


def _enter(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """The input maps of the next stage: one for each old branch, and the new one from the lowest."""
    lowest = maps[-1]
    sources = [*maps, lowest]
    return [x if path is None else path(x) for path, x in zip(transition, sources, strict=True)]
