"""Stacked hourglasses, with the key names of two published layouts.

``Hourglass`` is that of FPD (ilovepose/fast-human-pose-estimation.pytorch, lib/models/hourglass.py), whose stem grows with the
features; it is trained on BGR images. ``NewellHourglass`` is that of Newell and others
(princeton-vl/pytorch_stacked_hourglass). Both give one set of heatmaps for each stack: all of them in training mode, where each
is taught, and the last one otherwise.
Shapes: image [B, 3, h, w] with h and w multiples of 64 to heatmaps [B, K, h/4, w/4].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.initial import draw_default

__all__ = ["Hourglass", "HourglassConfig", "NewellHourglass", "NewellHourglassConfig", "hourglass", "hourglass_newell"]

_LEVELS = 4
"""Each level halves the map."""


@dataclass(frozen=True)
class HourglassConfig:
    """The sizes of one hourglass network."""

    stacks: int
    features: int

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> nn.Module:
        """The network with initial weights."""
        return Hourglass(self, num_keypoints=num_keypoints, generator=generator)


@dataclass(frozen=True)
class NewellHourglassConfig(HourglassConfig):
    """The sizes of one hourglass network of Newell's layout."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> nn.Module:
        """The network with initial weights."""
        return NewellHourglass(self, num_keypoints=num_keypoints, generator=generator)


def hourglass(stacks: int, features: int) -> HourglassConfig:
    """FPD's layout; its student has 4 stacks of 128 features, its teacher 8 of 256."""
    return HourglassConfig(stacks, features)


def hourglass_newell(stacks: int, features: int) -> NewellHourglassConfig:
    """Newell's layout."""
    return NewellHourglassConfig(stacks, features)


def _result(stacks: list[Tensor], *, training: bool) -> Tensor | tuple[Tensor, ...]:
    return tuple(stacks) if training else stacks[-1]


class _Residual(nn.Module):
    """Batch norm, ReLU and convolution, three times, beside the identity or a projection of it."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 2 * channels, 1)
        self.downsample: nn.Sequential | None = None
        if in_channels != 2 * channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, 2 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, 2 * channels, H, W]."""
        # Not in place: the shortcut reads x too.
        inner = self.conv1(functional.relu(self.bn1(x)))
        inner = self.conv2(functional.relu(self.bn2(inner)))
        inner = self.conv3(functional.relu(self.bn3(inner)))
        return cast(Tensor, inner + (x if self.downsample is None else self.downsample(x)))


def _residual(features: int) -> nn.Sequential:
    return nn.Sequential(_Residual(features, features // 2))


class _Stack(nn.Module):
    """One hourglass; level n (from 0, the smallest map) has three residual blocks, and level 0 a fourth in the middle."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hg = nn.ModuleList(
            nn.ModuleList(_residual(features) for _ in range(3 if level else 4)) for level in range(_LEVELS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self._level(_LEVELS - 1, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        blocks = cast(nn.ModuleList, self.hg[level])
        low = blocks[1](functional.max_pool2d(x, 2))
        inner = self._level(level - 1, low) if level else blocks[3](low)
        low = blocks[2](inner)
        return cast(Tensor, blocks[0](x) + functional.interpolate(low, scale_factor=2, mode="nearest"))


class Hourglass(nn.Module):
    """FPD's stacked hourglasses."""

    def __init__(self, config: HourglassConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        features, stacks = config.features, config.stacks
        self.conv1 = nn.Conv2d(3, features // 4, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(features // 4)
        self.layer1 = nn.Sequential(_Residual(features // 4, features // 4))
        self.layer2 = nn.Sequential(_Residual(features // 2, features // 2))
        self.layer3 = _residual(features)
        self.hg = nn.ModuleList(_Stack(features) for _ in range(stacks))
        self.res = nn.ModuleList(_residual(features) for _ in range(stacks))
        self.fc = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU(inplace=True))
            for _ in range(stacks)
        )
        self.score = nn.ModuleList(nn.Conv2d(features, num_keypoints, 1) for _ in range(stacks))
        self.fc_ = nn.ModuleList(nn.Conv2d(features, features, 1) for _ in range(stacks - 1))
        self.score_ = nn.ModuleList(nn.Conv2d(num_keypoints, features, 1) for _ in range(stacks - 1))
        draw_default(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Heatmaps [B, K, h/4, w/4] of normalised images: of each stack in training mode, else of the last one."""
        x = functional.relu(self.bn1(self.conv1(image_B3hw)))
        x = self.layer3(self.layer2(functional.max_pool2d(self.layer1(x), 2)))
        found = []
        for index, stack in enumerate(self.hg):
            inner = self.fc[index](self.res[index](stack(x)))
            found.append(self.score[index](inner))
            if index < len(self.hg) - 1:
                x = x + self.fc_[index](inner) + self.score_[index](found[-1])
        return _result(found, training=self.training)


class _Convolution(nn.Module):
    """A convolution with a bias, with batch norm and ReLU where wanted."""

    def __init__(self, in_channels: int, channels: int, size: int = 1, *, stride: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, size, stride, size // 2)
        self.bn = nn.BatchNorm2d(channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        x = self.conv(x)
        return x if self.bn is None else functional.relu(self.bn(x))


class _NewellResidual(nn.Module):
    """The same computation as ``_Residual`` with other names. It always has a projection, and uses it only where needed."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _Convolution(in_channels, channels // 2)
        self.bn2 = nn.BatchNorm2d(channels // 2)
        self.conv2 = _Convolution(channels // 2, channels // 2, 3)
        self.bn3 = nn.BatchNorm2d(channels // 2)
        self.conv3 = _Convolution(channels // 2, channels)
        self.skip_layer = _Convolution(in_channels, channels)
        self.needs_skip = in_channels != channels
        if not self.needs_skip:
            # Published files hold them; a training over several processes would wait for their gradients.
            self.skip_layer.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H, W]."""
        inner = self.conv1(functional.relu(self.bn1(x)))
        inner = self.conv2(functional.relu(self.bn2(inner)))
        inner = self.conv3(functional.relu(self.bn3(inner)))
        return cast(Tensor, inner + (self.skip_layer(x) if self.needs_skip else x))


class _NewellStack(nn.Module):
    """One hourglass, which holds the smaller ones."""

    def __init__(self, level: int, features: int) -> None:
        super().__init__()
        self.up1 = _NewellResidual(features, features)
        self.low1 = _NewellResidual(features, features)
        self.low2 = _NewellStack(level - 1, features) if level > 1 else _NewellResidual(features, features)
        self.low3 = _NewellResidual(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        low = self.low3(self.low2(self.low1(functional.max_pool2d(x, 2))))
        return cast(Tensor, self.up1(x) + functional.interpolate(low, scale_factor=2, mode="nearest"))


class _Merge(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = _Convolution(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H, W]."""
        return cast(Tensor, self.conv(x))


class NewellHourglass(nn.Module):
    """Newell's stacked hourglasses."""

    def __init__(self, config: HourglassConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        features, stacks = config.features, config.stacks
        stem = [
            _Convolution(3, 64, 7, stride=2, norm=True),
            _NewellResidual(64, 128),
            nn.MaxPool2d(2, 2),
            _NewellResidual(128, 128),
            _NewellResidual(128, features),
        ]
        self.pre = nn.Sequential(*stem)
        self.hgs = nn.ModuleList(nn.Sequential(_NewellStack(_LEVELS, features)) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(_NewellResidual(features, features), _Convolution(features, features, norm=True))
            for _ in range(stacks)
        )
        self.outs = nn.ModuleList(_Convolution(features, num_keypoints) for _ in range(stacks))
        self.merge_features = nn.ModuleList(_Merge(features, features) for _ in range(stacks - 1))
        self.merge_preds = nn.ModuleList(_Merge(num_keypoints, features) for _ in range(stacks - 1))
        draw_default(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Heatmaps [B, K, h/4, w/4] of normalised images: of each stack in training mode, else of the last one."""
        x = self.pre(image_B3hw)
        found = []
        for index, stack in enumerate(self.hgs):
            inner = self.features[index](stack(x))
            found.append(self.outs[index](inner))
            if index < len(self.hgs) - 1:
                x = x + self.merge_preds[index](found[-1]) + self.merge_features[index](inner)
        return _result(found, training=self.training)
