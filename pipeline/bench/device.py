"""Where networks run in a benchmark: the device of this process, the precision and the threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from stages.base import Device, resolve_precision

__all__ = ["Machine", "this_device", "this_place"]


@dataclass(frozen=True)
class Machine:
    """A device, the precision of networks on it, and the threads that this process has."""

    device: Device
    precision: Literal["float32", "bfloat16"]
    threads: int

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, network: nn.Module, image_B3hw: Tensor) -> Tensor:
        """float32 heatmaps [B, K, H, W] of normalised images on the device, without gradients."""
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return cast(Tensor, network(image_B3hw)).float()

    def __str__(self) -> str:
        """Such as ``cpu, bfloat16, 2 threads``."""
        return f"{self.device}, {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def this_device() -> Device:
    """A GPU where this machine has one that torch can use."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_place(*, threads: int) -> Machine:
    """``this_device``; 0 ``threads`` are as many as cores that this process may run on."""
    device = this_device()
    return Machine(device, resolve_precision("auto", device), threads or len(os.sched_getaffinity(0)))
