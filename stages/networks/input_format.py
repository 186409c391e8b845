"""What a network is fed: the order of the colours, and the mean and standard deviation of the normalised image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from stages.networks.normalize import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from stages.networks.weights import read_tensors
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import load_weights

__all__ = ["BGR", "STANDARD", "InputFormat", "feed", "format_of_file"]


@dataclass(frozen=True)
class InputFormat:
    """The form of a network's input; ``mean`` and ``std`` are in the order of its channels, for colours from 0 to 1."""

    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN_RGB
    std: tuple[float, float, float] = IMAGENET_STD_RGB

    @property
    def description(self) -> dict[str, str]:
        """The form for the description of a checkpoint; that of a network in the standard form does not have it."""
        return {} if self == STANDARD else {"input": json.dumps(asdict(self))}

    @staticmethod
    def described(description: Mapping[str, str]) -> InputFormat:
        """The inverse of ``description``."""
        if "input" not in description:
            return STANDARD
        fields = json.loads(description["input"])
        return InputFormat(fields["channels"], tuple(fields["mean"]), tuple(fields["std"]))


STANDARD = InputFormat()
"""RGB with ImageNet's mean and standard deviation: how images reach every network of this project."""
BGR = InputFormat("bgr")
"""What SimpleBaseline, LPN and FPD's hourglass were trained on: OpenCV's order, normalised in the order of RGB."""
_LITE = InputFormat("rgb", (127 / 255,) * 3, (128 / 255,) * 3)
"""What EfficientNet-Lite was trained on: colours from -1 to 1."""
_BGR_HEADS = {"simple_resnet": "final_layer.weight", "lpn": "final_layer.weight", "hourglass_": "score.0.weight"}
"""Of networks whose authors' files want BGR: how the name begins, and an entry that only a file with a pose network has."""


def format_of_file(network: str, path: Path) -> InputFormat:
    """The form that the weights in a file want: this project writes it into its files; of others their layout tells it."""
    if path.suffix == ".safetensors":
        with suppress(WeightsError):
            return InputFormat.described(load_weights(path).description)
    if network == "simple_lite0":
        return _LITE
    for begin, entry in _BGR_HEADS.items():
        if network.startswith(begin):
            # mmpose and torchvision train the same networks on RGB: their files have other names, or no head.
            return BGR if entry in {name.removeprefix("module.") for name in read_tensors(path)} else STANDARD
    return STANDARD


def feed(network: nn.Module, wanted: InputFormat) -> nn.Module:
    """Have ``network`` turn its input from the standard form into the one that it wants; its weights keep their names."""
    if wanted != STANDARD:
        network.register_forward_pre_hook(_Turn(wanted))
    return network


class _Turn:
    """A hook that changes the form of normalised images [B, 3, h, w]."""

    def __init__(self, wanted: InputFormat) -> None:
        self._flips = wanted.channels == "bgr"
        standard = list(zip(IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, strict=True))
        # (x * std + mean - mean') / std' for each channel.
        pairs = reversed(standard) if self._flips else standard
        given = [(*pair, *other) for pair, other in zip(pairs, zip(wanted.mean, wanted.std, strict=True), strict=True)]
        self._factor = [std / other_std for _, std, _, other_std in given]
        self._shift = [(mean - other) / other_std for mean, _, other, other_std in given]

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        image_B3hw, *rest = inputs
        if self._flips:
            image_B3hw = image_B3hw.flip(1)
        factor, shift = (image_B3hw.new_tensor(values).view(3, 1, 1) for values in (self._factor, self._shift))
        return (image_B3hw * factor + shift, *rest)
