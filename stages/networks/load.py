"""Loading networks: build or read what a ``NetworkSpec`` describes, and check its input and its heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stages.networks.exported import ExportedNetwork, load_exported
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork
from stages.networks.onnx_network import OnnxNetwork
from stages.networks.spec import NetworkSpec, architecture
from stages.networks.weights import fit_weights, load_state_dict_file
from stages.pose.affine import heatmap_size
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.path import File

__all__ = ["check_network", "is_trainable", "load_network"]

_PROBE_BATCH = 2  # one image would not show that a program was exported for single images
_DYNAMIC = (
    "a dynamic batch: dynamic_shapes=[{0: torch.export.Dim('batch')}] in torch.export.export, dynamic_axes in torch.onnx.export"
)


def load_network(
    spec: NetworkSpec,
    *,
    size_wh: tuple[int, int],
    num_keypoints: int,
    onnx_threads: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Load the network of ``spec`` in eval mode on the CPU; it turns [B, 3, h, w] into [B, ``num_keypoints``, h/4, w/4].

    Args:
        spec: the network and its weights.
        size_wh: input size (w, h) in pixels, for which the network is checked.
        num_keypoints: number of heatmaps K.
        onnx_threads: threads of onnxruntime; 0 means onnxruntime's own choice.
        device: where onnxruntime computes; such a network cannot be moved later.
        generator: draws initial weights.

    Raises:
        WeightsError: the weights do not fit, are not safe to open, or give other heatmaps.
    """
    weights, checkpoint = (None if file is None else _local(file) for file in (spec.weights, spec.checkpoint))
    if weights is not None and weights.suffix in (".pt2", ".onnx"):
        network = _whole(weights, onnx_threads=onnx_threads, device=device)
    else:
        network = _named(spec.network, weights, num_keypoints=num_keypoints, generator=generator)
    source = str(weights or spec.network)
    check_network(network, size_wh=size_wh, num_keypoints=num_keypoints, source=source)
    if spec.senior:
        if not is_trainable(network):
            raise WeightsError(
                f"'{source}' cannot be trained, so it cannot be the base of a senior", allowed="the network as .pt2 or .pth"
            )
        network = SeniorNetwork(network, MaskAdapter(generator=generator))
    if checkpoint is not None:
        fit_weights(network, load_weights(checkpoint).state, source=str(checkpoint))
    return network.eval()


def _local(file: File | str | Path) -> Path:
    return Path(file) if isinstance(file, str | Path) else file.fetch()


def is_trainable(network: nn.Module) -> bool:
    """Whether the network has parameters that receive gradients."""
    return any(parameter.requires_grad for parameter in network.parameters())


def check_network(network: nn.Module, *, size_wh: tuple[int, int], num_keypoints: int, source: str) -> None:
    """Run the network on two black images of (w, h) ``size_wh``; ``source`` names it in messages.

    Raises:
        WeightsError: the network fails, or its heatmaps are not [2, ``num_keypoints``, h/4, w/4].
    """
    width, height = size_wh
    if isinstance(network, ExportedNetwork | OnnxNetwork):
        _check_input(network.input_shape, size_wh=size_wh, source=source)
    network.eval()
    try:
        with torch.no_grad():
            heat = network(torch.zeros(_PROBE_BATCH, 3, height, width))
    except Exception as error:  # a program from elsewhere may raise anything
        raise WeightsError(
            f"'{source}' fails on an input of {_PROBE_BATCH}x3x{height}x{width}: {str(error).splitlines()[0]}",
            allowed=f"a network that takes Bx3x{height}x{width} images (crop.size_wh), with any batch size",
        ) from error
    allowed = (_PROBE_BATCH, num_keypoints, *reversed(heatmap_size(size_wh)))
    seen = tuple(heat.shape) if isinstance(heat, Tensor) else type(heat).__name__
    if seen != allowed:
        raise WeightsError(
            f"'{source}' gives {seen} for {_PROBE_BATCH}x3x{height}x{width} images", allowed=f"heatmaps {allowed}"
        )


def _check_input(shape: tuple[int | None, ...], *, size_wh: tuple[int, int], source: str) -> None:
    """Refuse a program whose one input has another size, or a fixed batch size."""
    wanted = (None, 3, size_wh[1], size_wh[0])
    agrees = len(shape) == 4 and all(size in (None, want) for size, want in zip(shape[1:], wanted[1:], strict=True))
    if not agrees:
        raise WeightsError(
            f"'{source}' takes inputs of {_shape_text(shape)}",
            allowed=f"{_shape_text(wanted)} (crop.size_wh is {size_wh}, width first)",
        )
    if shape[0] is not None:
        raise WeightsError(f"'{source}' takes batches of exactly {shape[0]}", allowed=_DYNAMIC)


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "x".join("B" if size is None else str(size) for size in shape)


def _whole(path: Path, *, onnx_threads: int, device: Literal["cpu", "cuda"]) -> nn.Module:
    """A network that one file holds completely."""
    if not path.is_file():
        raise WeightsError(f"no network at '{path}'", allowed="an existing .pt2 or .onnx file")
    return load_exported(path) if path.suffix == ".pt2" else OnnxNetwork(path, threads=onnx_threads, device=device)


def _named(name: str | None, weights: Path | None, *, num_keypoints: int, generator: torch.Generator | None) -> nn.Module:
    """A network by name, with published weights if given."""
    if name is None:
        raise WeightsError(f"'{weights}' is not a whole network", allowed="a file of weights together with 'network: NAME'")
    network = architecture(name).build(num_keypoints=num_keypoints, generator=generator)
    if weights is not None:
        fit_weights(network, load_state_dict_file(weights), source=str(weights))
    return network
