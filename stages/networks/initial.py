"""Initial weights from a generator, so that they do not depend on other random numbers that a process has drawn."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["draw_default", "draw_normal"]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_STD = 0.001


def draw_normal(network: nn.Module, generator: torch.Generator | None) -> None:
    """Kernels N(0, 0.001) and biases 0, as HRNet, SimpleBaseline, LPN and Lite-HRNet start; batch norms stay at 1 and 0."""
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            nn.init.normal_(module.weight, std=_STD, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def draw_default(network: nn.Module, generator: torch.Generator | None) -> None:
    """Kernels and biases as PyTorch draws them: uniform within 1 / sqrt(inputs of an output)."""
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
