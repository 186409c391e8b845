"""Loading networks: build or read what a ``NetworkSpec`` describes, and check its input and its heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stages.networks.exported import ExportedNetwork, load_exported
from stages.networks.file_kind import refuse_other_kind
from stages.networks.input_format import STANDARD, InputFormat, feed, format_of_file
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork
from stages.networks.onnx_files import data_files
from stages.networks.onnx_network import OnnxNetwork, require_onnxruntime
from stages.networks.onnx_trial import try_onnx
from stages.networks.spec import NetworkSpec, architecture
from stages.networks.trial_size import refuse_huge_tensors
from stages.networks.weights import fit_weights, load_state_dict_file
from stages.pose.affine import heatmap_size
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.path import File

__all__ = ["check_network", "format_of", "is_trainable", "load_network"]

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
    for file in spec.data:
        # On a node that reads a bucket, each file is downloaded to its place beside the network.
        _local(file)
    if weights is not None and weights.suffix in (".pt2", ".onnx"):
        network = _whole(weights, size_wh=size_wh, onnx_threads=onnx_threads, device=device)
    else:
        network = _named(spec.network, weights, num_keypoints=num_keypoints, generator=generator)
    source = str(weights or spec.network)
    feed(network, format_of(spec))
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


def format_of(spec: NetworkSpec) -> InputFormat:
    """What the network of ``spec`` is fed: as set, or as its files want it."""
    if spec.input is not None:
        return spec.input
    if spec.checkpoint is not None:
        return InputFormat.described(load_weights(_local(spec.checkpoint)).description)
    return STANDARD if spec.weights is None or spec.network is None else format_of_file(spec.network, _local(spec.weights))


def _local(file: File | str | Path) -> Path:
    return Path(file) if isinstance(file, str | Path) else file.fetch()


def is_trainable(network: nn.Module) -> bool:
    """Whether the network has parameters that receive gradients."""
    return any(parameter.requires_grad for parameter in network.parameters())


def check_network(network: nn.Module, *, size_wh: tuple[int, int], num_keypoints: int, source: str) -> None:
    """Run the network three times on noise of (w, h) ``size_wh``; ``source`` names it in messages.

    Raises:
        WeightsError: the network fails, its heatmaps are not [B, ``num_keypoints``, h/4, w/4], not floating point or not
            finite, or it gives other heatmaps for the same image a second time or in another batch.
    """
    if isinstance(network, ExportedNetwork | OnnxNetwork):
        _check_input(network.input_shape, size_wh=size_wh, source=source)
    network.eval()
    image_B3hw = _probe_images(size_wh)
    if isinstance(network, ExportedNetwork):
        refuse_huge_tensors(network, image_B3hw.shape, source=source)
    first, again, larger = (
        _probe(network, image_B3hw[:batch], num_keypoints=num_keypoints, source=source)
        for batch in (_PROBE_BATCH, _PROBE_BATCH, len(image_B3hw))
    )
    # Sums are rounded in another order in another batch, and dynamic quantization has another scale there.
    _refuse_other_heatmaps(first, again, "a second time", most=0.001, source=source)
    _refuse_other_heatmaps(first, larger[:_PROBE_BATCH], "in another batch", most=0.02, source=source)


def _probe_images(size_wh: tuple[int, int]) -> Tensor:
    """Three images of noise with other contrast and brightness: the statistics of a batch depend on its size."""
    noise = torch.randn(_PROBE_BATCH + 1, 3, size_wh[1], size_wh[0], generator=torch.Generator().manual_seed(0))
    contrast, brightness = torch.tensor([0.5, 1.0, 0.2]), torch.tensor([0.0, -1.0, 2.0])
    return noise * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)


def _probe(network: nn.Module, image_B3hw: Tensor, *, num_keypoints: int, source: str) -> Tensor:
    """The network's heatmaps, of which the shape, the type and the values are checked."""
    batch, _, height, width = image_B3hw.shape
    shown = f"{batch}x3x{height}x{width}"
    try:
        with torch.no_grad():
            heat = network(image_B3hw)
    except Exception as error:  # a program from elsewhere may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"'{source}' fails on an input of {shown}: {reason}",
            allowed=f"a network that takes Bx3x{height}x{width} images (crop.size_wh), with any batch size",
        ) from error
    allowed = (batch, num_keypoints, *reversed(heatmap_size((width, height))))
    if not isinstance(heat, Tensor) or tuple(heat.shape) != allowed:
        raise WeightsError(f"'{source}' gives {_output_text(heat)} for {shown} images", allowed=f"heatmaps {allowed}")
    if not heat.is_floating_point():
        kind = str(heat.dtype).removeprefix("torch.")
        raise WeightsError(
            f"'{source}' gives heatmaps of {kind} for {shown} images",
            allowed="heatmaps of floating point numbers, such as float32",
        )
    if not heat.isfinite().all():
        raise WeightsError(
            f"'{source}' gives heatmaps with NaN or infinity for {shown} images of noise",
            allowed="finite heatmaps; check that the file's weights are right",
        )
    return heat


def _output_text(output: object) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f"a dict with the names {[str(name) for name in output]}"
    items = [_output_text(item) for item in output[:4]] if isinstance(output, tuple | list) else []
    return f"{type(output).__name__} of {', '.join(items)}" if items else type(output).__name__


def _refuse_other_heatmaps(first: Tensor, second: Tensor, when: str, *, most: float, source: str) -> None:
    """Refuse a difference of more than ``most`` of the largest value."""
    largest, difference = float(first.abs().max()), float((first - second).abs().max())
    if difference > most * largest:
        raise WeightsError(
            f"'{source}' gives other heatmaps for the same image {when}: they differ by up to {difference:.2g}, "
            f"and the largest value is {largest:.2g}",
            allowed="a network without dropout and batch statistics: call eval() before its export by torch",
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


def _whole(path: Path, *, size_wh: tuple[int, int], onnx_threads: int, device: Literal["cpu", "cuda"]) -> nn.Module:
    """A network that a file holds completely, with its data files."""
    if not path.is_file():
        raise WeightsError(f"no network at '{path}'", allowed="an existing .pt2 or .onnx file")
    if path.suffix == ".pt2":
        return load_exported(path)
    require_onnxruntime(path, device)
    refuse_other_kind(path, wanted="onnx")
    try_onnx(path, data=data_files(path), size_wh=size_wh, batch=_PROBE_BATCH)
    return OnnxNetwork(path, threads=onnx_threads, device=device)


def _named(name: str | None, weights: Path | None, *, num_keypoints: int, generator: torch.Generator | None) -> nn.Module:
    """A network by name, with published weights if given."""
    if name is None:
        raise WeightsError(f"'{weights}' is not a whole network", allowed="a file of weights together with 'network: NAME'")
    network = architecture(name).build(num_keypoints=num_keypoints, generator=generator)
    if weights is not None:
        fit_weights(network, load_state_dict_file(weights), source=str(weights))
    return network
