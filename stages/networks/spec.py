"""Networks by name: the table of known architectures, and the description of one network and its weights."""

from __future__ import annotations

import re
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from storage_schemas.errors import ConfigError
from storage_schemas.paths.path import File

if TYPE_CHECKING:
    import torch
    from torch import nn

    from stages.networks.input_format import InputFormat

__all__ = ["NETWORKS", "Architecture", "NetworkSpec", "architecture", "architecture_recipe", "is_network", "known_networks"]

# Text and not functions: the settings check names, and importing torch for that would take seconds.
NETWORKS: dict[str, str] = {
    "hrnet_w{width}": "stages.networks.hrnet:hrnet",
    "hrnet_w{width}_small": "stages.networks.hrnet:hrnet_small",
    "hrnet_w{width}_tiny": "stages.networks.hrnet:hrnet_tiny",
    "hourglass_{stacks}x{features=64|128|256}": "stages.networks.hourglass:hourglass",
    "hourglass_newell_{stacks}x{features=64|128|256}": "stages.networks.hourglass:hourglass_newell",
    "lpn{layers=50|101|152}": "stages.networks.lpn:lpn",
    "lite_hrnet_{layers=18|30}": "stages.networks.lite_hrnet:lite_hrnet",
    "naive_lite_hrnet_{layers=18}": "stages.networks.lite_hrnet:naive_lite_hrnet",
    "wider_naive_lite_hrnet_{layers=18}": "stages.networks.lite_hrnet:wider_naive_lite_hrnet",
    "simple_resnet{layers=18|34|50|101|152}": "stages.networks.simple_baseline:simple_resnet",
    "simple_lite0": "stages.networks.simple_lite:simple_lite0",
}
"""Name of a network to ``module:function``. The function returns the ``Architecture``; each ``{parameter}`` in the name is a
whole number from 1 to 9999, or one of those that are listed, and the function takes it as a keyword argument."""


class Architecture(Protocol):
    """A dataclass with all that a network's name stands for; recipes hold its fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, *, num_keypoints: int, generator: torch.Generator | None = None) -> nn.Module:
        """The network: images [B, 3, h, w] to ``num_keypoints`` heatmaps [B, K, h/4, w/4], initial weights from ``generator``.

        The constructor of the network uses torch's global generator where ``generator`` is None.
        """


@dataclass(frozen=True)
class NetworkSpec:
    """A network, and the files with its weights."""

    network: str | None = None
    """A name of ``NETWORKS``; None where ``weights`` is a whole network."""
    weights: File | Path | str | None = None
    """Weights of ``network`` (.pth, .safetensors), or a whole network (.pt2, .onnx); None for initial weights."""
    senior: bool = False
    """Whether a mask adapter is in front of the network."""
    checkpoint: File | Path | str | None = None
    """Weights that ``save_weights`` wrote after training; they replace all others."""
    input: InputFormat | None = None
    """What the network is fed; None for what its files want (``stages.networks.load.format_of``)."""
    data: tuple[File | Path | str, ...] = ()
    """The data files that ``weights`` names, where it is an .onnx file with such files; they lie in its folder or below it."""


def architecture(name: str) -> Architecture:
    """The architecture of a name, such as ``hrnet_w24_small``.

    Raises:
        ConfigError: ``NETWORKS`` has no such name.
    """
    found = _find(name)
    if found is None:
        raise ConfigError(f"no network is called '{name}'", allowed=known_networks())
    builder, parameters = found
    built: Architecture = resolve_name(builder)(**parameters)
    return built


def architecture_recipe(name: str, *, num_keypoints: int) -> dict[str, Any]:
    """What a recipe holds of a network by name: a later release may give the same name to other layers."""
    return {**asdict(architecture(name)), "num_joints": num_keypoints}


def is_network(name: str) -> bool:
    """Whether ``NETWORKS`` has the name."""
    return _find(name) is not None


def known_networks() -> str:
    """All known names, for messages."""
    # The listed numbers are what a user types; what they mean is not.
    names = [re.sub(r"\{\w+=([^}]*)\}", lambda match: f"({match[1]})", pattern) for pattern in NETWORKS]
    return f"one of {', '.join(names)}, with a whole number in place of each {{...}}"


def _find(name: str) -> tuple[str, dict[str, int]] | None:
    """The builder of a name and the numbers in the name."""
    for pattern, builder in NETWORKS.items():
        match = re.fullmatch(re.sub(r"\{(\w+)(?:=([^}]*))?\}", _group, pattern), name)
        if match:
            return builder, {parameter: int(text) for parameter, text in match.groupdict().items()}
    return None


def _group(parameter: re.Match[str]) -> str:
    """The regular expression of a parameter in a name."""
    return f"(?P<{parameter[1]}>{parameter[2] or '[1-9][0-9]{0,3}'})"
