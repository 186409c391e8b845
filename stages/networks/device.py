"""Moving a network to its device, in the memory layout in which convolutions are fastest."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["on_device"]


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move the network to ``device`` with channels_last weights, which are twice as fast with bfloat16 on CPUs and GPUs."""
    if device.type == "cuda":
        # By default cuDNN rounds float32 to ten bits (TF32) and picks the algorithm by timing, so results would vary.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    # torch's stubs lack this form of ``to``.
    moved: nn.Module = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
