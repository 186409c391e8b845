"""The types that settings share: the base of every section, limited numbers, absolute paths, and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from stages.networks.spec import is_network, known_networks
from storage_schemas.paths.path import StorePath, parse_path

__all__ = [
    "AbsolutePath", "Count", "DataPath", "Epochs", "FlipTest", "Fraction", "InputSettings", "Network", "NetworkSource",
    "Positive", "Precision", "Section", "Seed", "Side",
]  # fmt: skip

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
"""Each epoch is an item of plans and recipes: a mistyped number must not fill the memory."""
Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What the generators take."""
Precision = Literal["auto", "float32", "bfloat16"]
FlipTest = Literal["exact", "hrnet", False]
"""How the crop is mirrored for the flip test; False for none.

``exact`` mirrors about the crop's centre, w / 2, as views do: column x becomes w - x, and the shift of ``flip_merge`` by one
heatmap pixel is right. ``hrnet`` reverses the columns, as the published code does: x becomes w - 1 - x, for which a shift of
.75 would be right. So it leaves each keypoint half a crop pixel too far to the right.
"""

P = TypeVar("P", Path, StorePath)


def _data_path(value: object) -> StorePath:
    if not isinstance(value, str | Path | StorePath):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    return _absolute(parse_path(str(value)))


def _absolute(path: P) -> P:
    if not path.is_absolute():
        raise ValueError(f"'{path}' is relative; paths must be absolute, because a submitted job runs in another folder")
    return path


def _known_network(name: str) -> str:
    if not is_network(name):
        raise ValueError(f"'{name}' is not the name of a network; give {known_networks()}")
    return name


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Network = Annotated[str, AfterValidator(_known_network)]
"""A name of ``stages.networks.spec.NETWORKS``, such as ``hrnet_w16_small``."""
DataPath = Annotated[StorePath, PlainValidator(_data_path), PlainSerializer(str)]
"""A file or folder of the dataset, on a file system that all nodes see or in a bucket."""


class Section(BaseModel):
    """The base of every section: it refuses unknown keys, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class InputSettings(Section):
    """What a network is fed. The defaults are those of HRNet."""

    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """The mean of each channel, in their order, for colours from 0 to 1."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """The standard deviation of each channel."""


class NetworkSource(Section):
    """A network by name, by its weights, or both; the same for the primary, the base of the senior and the student."""

    weights: AbsolutePath | None = None
    """Weights of ``network`` as .pth or .safetensors, or a whole network as .pt2 (torch.export) or .onnx."""
    network: Network | None = None
    """The name of the network; leave it out where ``weights`` is a whole network."""
    init: AbsolutePath | Literal["imagenet"] | None = None
    """Weights that training starts from: an ImageNet backbone, or a pose network of this or another joint set, as .pth or
    .safetensors. What fits by name and shape is taken. ``imagenet``: those of a package (``simple_lite0``)."""
    input: InputSettings | None = None
    """What the network is fed. Without it that is known from the layout of the file: the authors of SimpleBaseline, LPN and FPD
    train on BGR. A program (.pt2, .onnx) is fed as HRNet is."""

    @property
    def is_whole(self) -> bool:
        """Whether ``weights`` holds the network as well."""
        return self.weights is not None and self.weights.suffix in (".pt2", ".onnx")

    @model_validator(mode="after")
    def _names_one_network(self) -> Self:
        if self.is_whole and self.network:
            raise ValueError(f"'{self.weights}' is a whole network: remove 'network'")
        if not self.is_whole and self.network is None:
            raise ValueError("give 'network', unless 'weights' is a .pt2 or .onnx file")
        if self.init is not None and self.weights is not None:
            raise ValueError("give either 'weights' (a trained network) or 'init' (where its training starts)")
        return self
