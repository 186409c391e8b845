"""Networks by description: HRNet by name, whole programs from files, a senior around either, and what each must fulfil."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stages.networks.exported import ExportedNetwork, load_exported
from stages.networks.hrnet import HRNet, hrnet_config
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork
from stages.networks.onnx_network import OnnxNetwork
from stages.networks.weights import fit_weights, load_state_dict_file
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.node_cache import File, here

__all__ = ["NetworkSpec", "check_network", "is_trainable", "load_network"]

_STRIDE = 4
_PROBE_BATCH = 2  # one would not show a program that was exported for single images
_DYNAMIC = (
    "a dynamic batch: dynamic_shapes=[{0: torch.export.Dim('batch')}] in torch.export.export, dynamic_axes in torch.onnx.export"
)


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, and where its weights come from."""

    network: str | None = None
    """``hrnet_w32`` and the like; None where ``weights`` is a whole program."""
    weights: File | None = None
    """Published weights of that network, or a whole network as .pt2 or .onnx; None for first weights."""
    senior: bool = False
    """With a mask adapter in front."""
    checkpoint: File | None = None
    """What ``save_weights`` kept of this network after training; it goes on top of everything else."""


def load_network(
    spec: NetworkSpec,
    *,
    size_wh: tuple[int, int],
    num_joints: int = 17,
    onnx_threads: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The network of ``spec`` in eval mode on the CPU, checked to turn 3 x h x w into ``num_joints`` x h/4 x w/4.

    ``size_wh`` is the input's (w, h); ``device`` is where onnxruntime, which cannot be moved later, computes; ``generator``
    draws first weights. Raises ``WeightsError`` for weights that do not fit,
    are not safe to open, or give another output.
    """
    weights, checkpoint = (None if file is None else here(file) for file in (spec.weights, spec.checkpoint))
    if weights is not None and weights.suffix in (".pt2", ".onnx"):
        network = _whole(weights, onnx_threads=onnx_threads, device=device)
    else:
        network = _named(spec.network, weights, num_joints=num_joints, generator=generator)
    source = str(weights or spec.network)
    check_network(network, size_wh=size_wh, num_joints=num_joints, source=source)
    if spec.senior:
        if not is_trainable(network):
            raise WeightsError(
                f"'{source}' cannot be trained, so no senior can be made of it", allowed="the network as .pt2 or .pth"
            )
        network = SeniorNetwork(network, MaskAdapter(generator=generator))
    if checkpoint is not None:
        fit_weights(network, load_weights(checkpoint).state, source=str(checkpoint))
    return network.eval()


def is_trainable(network: nn.Module) -> bool:
    """Whether the network has weights that gradients reach."""
    return any(parameter.requires_grad for parameter in network.parameters())


def check_network(network: nn.Module, *, size_wh: tuple[int, int], num_joints: int, source: str) -> None:
    """Run two black images of (w, h) ``size_wh``; ``WeightsError`` where the heatmaps are not ``num_joints`` x h/4 x w/4."""
    width, height = size_wh
    if isinstance(network, ExportedNetwork | OnnxNetwork):
        _check_input(network.input_shape, size_wh=size_wh, source=source)
    network.eval()
    try:
        with torch.no_grad():
            heat = network(torch.zeros(_PROBE_BATCH, 3, height, width))
    except Exception as error:  # whatever a foreign program may raise
        raise WeightsError(
            f"'{source}' fails on an input of {_PROBE_BATCH}x3x{height}x{width}: {str(error).splitlines()[0]}",
            allowed=f"a network that takes Bx3x{height}x{width} images (crop.size_wh), with any batch size",
        ) from error
    allowed = (_PROBE_BATCH, num_joints, height // _STRIDE, width // _STRIDE)
    seen = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
    if seen != allowed:
        raise WeightsError(
            f"'{source}' gives {seen} for {_PROBE_BATCH}x3x{height}x{width} images", allowed=f"heatmaps {allowed}"
        )


def _check_input(shape: tuple[int | None, ...], *, size_wh: tuple[int, int], source: str) -> None:
    wanted = (None, 3, size_wh[1], size_wh[0])
    agrees = len(shape) == 4 and all(size in (None, want) for size, want in zip(shape[1:], wanted[1:], strict=True))
    if not agrees:
        raise WeightsError(
            f"'{source}' takes inputs of {_written(shape)}",
            allowed=f"{_written(wanted)} (crop.size_wh is {size_wh}, width first)",
        )
    if shape[0] is not None:
        raise WeightsError(f"'{source}' takes batches of exactly {shape[0]}", allowed=_DYNAMIC)


def _written(shape: tuple[int | None, ...]) -> str:
    return "x".join("B" if size is None else str(size) for size in shape)


def _whole(path: Path, *, onnx_threads: int, device: Literal["cpu", "cuda"]) -> nn.Module:
    """A network that is all in one file."""
    if not path.is_file():
        raise WeightsError(f"no teacher at '{path}'", allowed="an existing .pt2 or .onnx file")
    return load_exported(path) if path.suffix == ".pt2" else OnnxNetwork(path, threads=onnx_threads, device=device)


def _named(name: str | None, weights: Path | None, *, num_joints: int, generator: torch.Generator | None) -> nn.Module:
    """A network by name, with published weights where there are any."""
    if name is None:
        raise WeightsError(f"'{weights}' is not a whole network, so it needs one", allowed="teachers...network: hrnet_w32")
    config = replace(hrnet_config(name), num_joints=num_joints)
    network = HRNet(config, generator=generator)
    if weights is not None:
        fit_weights(network, load_state_dict_file(weights), source=str(weights))
    return network
