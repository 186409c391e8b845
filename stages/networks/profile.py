"""The cost of a network: parameters, multiply-adds and time. Papers use different units, so the text names the unit."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.networks.mask_adapter import SeniorNetwork

__all__ = ["Profile", "measure_latency", "profile"]


@dataclass(frozen=True)
class Profile:
    """Parameters and multiply-adds of a network for one image; both are 0 for an ONNX network."""

    params: int
    macs: int
    """Multiply-adds of convolutions and matrix products."""

    @property
    def gmac(self) -> float:
        """Multiply-adds in units of 1e9."""
        return self.macs / 1e9

    @property
    def hrnet_gflops(self) -> float:
        """Multiply-adds in units of 1024^3, which the README of HRNet calls GFLOPs."""
        return self.macs / 1024**3

    def __str__(self) -> str:
        arithmetic = f"{self.gmac:.3f} GMac (1e9), {self.hrnet_gflops:.3f} in HRNet's unit (1024^3)"
        return f"{self.params / 1e6:.3f} M parameters, {arithmetic}"


def profile(network: nn.Module, *, size_wh: tuple[int, int]) -> Profile:
    """Count one forward pass of one image of (w, h) ``size_wh``; the network keeps its device and its mode."""
    with FlopCounterMode(display=False) as counter:
        _forward(network, _inputs(network, size_wh=size_wh, batch=1))
    return Profile(params=sum(p.numel() for p in network.parameters()), macs=counter.get_total_flops() // 2)


def measure_latency(network: nn.Module, *, size_wh: tuple[int, int], batch: int = 1, warm_up: int = 3, runs: int = 15) -> float:
    """Median milliseconds of a forward pass of ``batch`` images of (w, h) ``size_wh`` on the network's device, in eval mode."""
    inputs = _inputs(network, size_wh=size_wh, batch=batch)
    for _ in range(warm_up):
        _forward(network, inputs)
    seconds = []
    for _ in range(runs):
        _wait(inputs[0].device)
        start = time.perf_counter()
        _forward(network, inputs)
        _wait(inputs[0].device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def _inputs(network: nn.Module, *, size_wh: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    """Black images on the network's device; a senior gets masks too."""
    width, height = size_wh
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    image_B3hw = torch.zeros(batch, 3, height, width, device=device)
    if isinstance(network, SeniorNetwork):
        return image_B3hw, torch.zeros(batch, 1, height, width, device=device), torch.ones(batch, device=device)
    return (image_B3hw,)


def _forward(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Run one pass in eval mode, so that batch statistics do not change."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        network.train(training)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
