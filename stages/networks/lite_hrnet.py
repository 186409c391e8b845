"""Lite-HRNet, full and naive (HRNet/Lite-HRNet, models/backbones/litehrnet.py), with the key names of its authors.

Shapes: image [B, 3, h, w] with h and w multiples of 32 to heatmaps [B, K, h/4, w/4].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.branches import raised, transition
from stages.networks.initial import draw_normal

__all__ = ["LiteHRNet", "LiteHRNetConfig", "lite_hrnet", "naive_lite_hrnet", "wider_naive_lite_hrnet"]

_STEM = 32
_MODULES = {18: (2, 4, 2), 30: (3, 8, 3)}


@dataclass(frozen=True)
class LiteHRNetConfig:
    """The sizes of one Lite-HRNet; branch b has ``width * 2**b`` channels."""

    width: int
    modules: tuple[int, int, int]
    """Number of modules in the stages, which have 2, 3 and 4 branches; each module has two blocks and a fuse."""
    naive: bool
    """Blocks of shuffle units, each for one branch, in place of conditional channel weighting over all branches."""

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> LiteHRNet:
        """The network with initial weights."""
        return LiteHRNet(self, num_keypoints=num_keypoints, generator=generator)


def lite_hrnet(layers: int) -> LiteHRNetConfig:
    """The published Lite-HRNet-18 and Lite-HRNet-30."""
    return LiteHRNetConfig(40, _MODULES[layers], naive=False)


def naive_lite_hrnet(layers: int) -> LiteHRNetConfig:
    """The published naive Lite-HRNet-18."""
    return LiteHRNetConfig(30, _MODULES[layers], naive=True)


def wider_naive_lite_hrnet(layers: int) -> LiteHRNetConfig:
    """The published wider naive Lite-HRNet-18."""
    return LiteHRNetConfig(40, _MODULES[layers], naive=True)


class _Convolution(nn.Module):
    """A convolution with batch norm and ReLU; without a norm it has a bias."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int = 1,
        *,
        stride: int = 1,
        depthwise: bool = False,
        norm: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        groups = in_channels if depthwise else 1
        self.conv = nn.Conv2d(in_channels, channels, size, stride, size // 2, groups=groups, bias=not norm)
        self.bn = nn.BatchNorm2d(channels) if norm else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return functional.relu(x) if self.relu else x


def _depthwise(channels: int, *, stride: int = 1) -> _Convolution:
    return _Convolution(channels, channels, 3, stride=stride, depthwise=True, relu=False)


def _shuffle(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate two halves so that their channels alternate."""
    return torch.stack([first, second], dim=2).flatten(1, 2)


def _separable(in_channels: int, channels: int, *, stride: int, relu: bool) -> list[nn.Module]:
    """A depthwise 3x3 and a 1x1 convolution, each with batch norm."""
    parts: list[nn.Module] = [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return [*parts, nn.ReLU(inplace=True)] if relu else parts


class _Stem(nn.Module):
    """From the image to 32 channels of a quarter of its size."""

    def __init__(self) -> None:
        super().__init__()
        half = _STEM // 2
        self.conv1 = _Convolution(3, _STEM, 3, stride=2)
        self.branch1 = nn.Sequential(_depthwise(half, stride=2), _Convolution(half, half))
        self.expand_conv = _Convolution(half, _STEM)
        self.depthwise_conv = _depthwise(_STEM, stride=2)
        self.linear_conv = _Convolution(_STEM, half)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """[B, 3, h, w] to [B, 32, h/4, w/4]."""
        first, second = self.conv1(image_B3hw).chunk(2, dim=1)
        return _shuffle(self.branch1(first), self.linear_conv(self.depthwise_conv(self.expand_conv(second))))


class _CrossResolutionWeighting(nn.Module):
    """Weights the channels of each pixel by all branches."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self._channels, total = list(channels), sum(channels)
        self.conv1 = _Convolution(total, total // 8)
        self.conv2 = _Convolution(total // 8, total, relu=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map for each branch, each half the size of the one before, to the same shapes."""
        size = (maps[-1].shape[-2], maps[-1].shape[-1])
        gathered = torch.cat([*(functional.adaptive_avg_pool2d(x, size) for x in maps[:-1]), maps[-1]], dim=1)
        weights = self.conv2(self.conv1(gathered)).sigmoid().split(self._channels, dim=1)
        return [x * functional.interpolate(w, size=x.shape[-2:], mode="nearest") for x, w in zip(maps, weights, strict=True)]


class _SpatialWeighting(nn.Module):
    """Weights the channels by their means over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(channels, channels // 4, norm=False)
        self.conv2 = _Convolution(channels // 4, channels, norm=False, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        mean = functional.adaptive_avg_pool2d(x, 1)
        return cast(Tensor, x * self.conv2(self.conv1(mean)).sigmoid())


class _ChannelWeighting(nn.Module):
    """Conditional channel weighting: half of the channels of each branch pass, the other half is weighted."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        halves = [width // 2 for width in channels]
        self.cross_resolution_weighting = _CrossResolutionWeighting(halves)
        self.depthwise_convs = nn.ModuleList(_depthwise(width) for width in halves)
        self.spatial_weighting = nn.ModuleList(_SpatialWeighting(width) for width in halves)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map for each branch to the same shapes."""
        first, second = zip(*(x.chunk(2, dim=1) for x in maps), strict=True)
        weighted = self.cross_resolution_weighting(second)
        weighted = [conv(x) for conv, x in zip(self.depthwise_convs, weighted, strict=True)]
        weighted = [weigh(x) for weigh, x in zip(self.spatial_weighting, weighted, strict=True)]
        return [_shuffle(kept, changed) for kept, changed in zip(first, weighted, strict=True)]


class _ShuffleUnit(nn.Module):
    """Half of the channels pass, the other half is convolved (ShuffleNetV2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch2 = nn.Sequential(_Convolution(half, half), _depthwise(half), _Convolution(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        first, second = x.chunk(2, dim=1)
        return _shuffle(first, self.branch2(second))


def _fuse_path(channels: Sequence[int], source: int, target: int) -> nn.Module | None:
    """Layers that bring branch ``source`` to the size and the channels of branch ``target``; None for the identity."""
    if source == target:
        return None
    if source > target:
        return raised(channels[source], channels[target], source - target)
    width = channels[source]
    steps = [nn.Sequential(*_separable(width, width, stride=2, relu=True)) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, nn.Sequential(*_separable(width, channels[target], stride=2, relu=False)))


class _Module(nn.Module):
    """Two blocks over all branches, and the fuse."""

    def __init__(self, channels: Sequence[int], *, naive: bool) -> None:
        super().__init__()
        self.naive = naive
        # Of a naive network a list of layers for each branch, else a list of blocks over all branches.
        self.layers = nn.ModuleList(
            [nn.Sequential(_ShuffleUnit(width), _ShuffleUnit(width)) for width in channels]
            if naive
            else [_ChannelWeighting(channels), _ChannelWeighting(channels)]
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(channels, source, target) for source in range(len(channels)))  # type: ignore[misc]
            for target in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map for each branch, each half the size of the one before, to the same shapes."""
        if self.naive:
            return self._fused([layer(x) for layer, x in zip(self.layers, maps, strict=True)])
        for block in self.layers:
            maps = block(maps)
        return self._fused(maps)

    def _fused(self, maps: list[Tensor]) -> list[Tensor]:
        """The published sum, which is not the plain one of HRNet.

        The authors' code adds in place to a tensor that it still reads: the first branch counts twice, and so does its
        contribution to the others, which is computed from its sum and not from its own map. The published weights need this.
        """
        first = self._sum(0, maps, 2 * maps[0])
        others = [self._sum(target, maps, maps[target] + 2 * self._path(target, 0)(first)) for target in range(1, len(maps))]
        return [functional.relu(x) for x in (first, *others)]

    def _sum(self, target: int, maps: Sequence[Tensor], start: Tensor) -> Tensor:
        for source in range(1, len(maps)):
            if source != target:
                start = start + self._path(target, source)(maps[source])
        return start

    def _path(self, target: int, source: int) -> nn.Module:
        return cast(nn.ModuleList, self.fuse_layers[target])[source]


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    return transition(
        before,
        after,
        adapted=lambda old, new: nn.Sequential(*_separable(old, new, stride=1, relu=True)),
        lowered=lambda old, new: nn.Sequential(*_separable(old, new, stride=2, relu=True)),
    )


class _Project(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = _depthwise(in_channels)
        self.pointwise_conv = _Convolution(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H, W]."""
        return cast(Tensor, self.pointwise_conv(self.depthwise_conv(x)))


class _Head(nn.Module):
    """Adds each map to the next finer one, from the coarsest to the finest."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        coarse = list(reversed(channels))
        self.projects = nn.ModuleList(
            _Project(width, finer) for width, finer in zip(coarse, [*coarse[1:], coarse[-1]], strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map for each branch to the finest one [B, width, H, W]."""
        x = self.projects[0](maps[-1])
        for project, finer in zip(list(self.projects)[1:], reversed(maps[:-1]), strict=True):
            x = project(finer + functional.interpolate(x, size=finer.shape[-2:], mode="bilinear", align_corners=True))
        return cast(Tensor, x)


class LiteHRNet(nn.Module):
    """Lite-HRNet with ``num_keypoints`` heatmaps; ``generator`` draws the initial weights (None: torch's global generator)."""

    def __init__(self, config: LiteHRNetConfig, *, num_keypoints: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        widths = [config.width * 2**branch for branch in range(4)]
        self.stem = _Stem()
        before = [_STEM]
        for stage, modules in enumerate(config.modules):
            channels = widths[: stage + 2]
            self.add_module(f"transition{stage}", _transition(before, channels))
            self.add_module(f"stage{stage}", nn.Sequential(*(_Module(channels, naive=config.naive) for _ in range(modules))))
            before = channels
        self.head_layer = _Head(widths)
        self.final_layer = nn.Conv2d(config.width, num_keypoints, 1)
        draw_normal(self, generator)

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """Heatmaps [B, K, h/4, w/4] of normalised images [B, 3, h, w]."""
        maps = [self.stem(image_B3hw)]
        for stage in range(3):
            sources = [*maps, maps[-1]]
            transition = cast(nn.ModuleList, self.get_submodule(f"transition{stage}"))
            maps = [x if path is None else path(x) for path, x in zip(transition, sources, strict=True)]
            maps = self.get_submodule(f"stage{stage}")(maps)
        return cast(Tensor, self.final_layer(self.head_layer(maps)))
