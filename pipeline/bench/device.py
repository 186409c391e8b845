"""The device, precision and threads of a benchmark."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from stages.base import Device, resolve_precision

__all__ = ["Machine", "this_device", "this_machine"]


@dataclass(frozen=True)
class Machine:
    """A device, the precision of networks on it, and the threads of this process."""

    device: Device
    precision: Literal["float32", "bfloat16"]
    threads: int

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
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
    """cuda if torch can use a GPU here, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_machine(*, threads: int) -> Machine:
    """This machine; 0 ``threads`` means one for each core that this process may use."""
    device = this_device()
    return Machine(device, resolve_precision("auto", device), threads or len(os.sched_getaffinity(0)))
