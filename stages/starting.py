"""What a training starts from: drawn weights, or the user's first weights, which reach all workers by the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stages.base import Context
from stages.networks.first_weights import imagenet_file, take_weights
from stages.networks.input_format import InputFormat, format_of_file
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from stages.networks.weights import load_state_dict_file
from stages.settings import NetworkSource
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import encode_checkpoint
from storage_schemas.paths.facts import facts_of, known_facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft

__all__ = ["input_recipe", "starting_recipe", "starting_spec", "wanted_input"]

_FIRST = "first.safetensors"
"""In the draft only: the weights after training replace it."""


def starting_recipe(source: NetworkSource) -> dict[str, Any]:
    """What a training depends on besides its network and seed. Without first weights it is empty, as in earlier releases.

    Raises:
        WeightsError: the file of ``init`` does not exist.
    """
    file = _init_file(source)
    init = {} if file is None else {"init": known_facts_of(LocalPath(file)).sha256}
    return {**init, **input_recipe(source)}


def input_recipe(source: NetworkSource) -> dict[str, Any]:
    """What the user says that the network is fed; what its file says follows from the hash of the file."""
    return {} if source.input is None else {"input": source.input.model_dump()}


def wanted_input(source: NetworkSource) -> InputFormat | None:
    """What the user says that the network is fed."""
    return None if source.input is None else InputFormat(source.input.channels, source.input.mean, source.input.std)


def starting_spec(
    context: Context,
    source: NetworkSource,
    draft: Draft,
    *,
    title: str,
    seed: int,
    size_wh: tuple[int, int],
    num_keypoints: int,
) -> NetworkSpec:
    """The network of a training with its first weights; says how many of them are from the user's file.

    Raises:
        WeightsError: the file has little or nothing for the network, or is not safe to open.
    """
    spec, file = NetworkSpec(network=source.network, input=wanted_input(source)), _init_file(source)
    if file is None:
        return spec
    assert source.network is not None
    wanted = spec.input or format_of_file(source.network, file)
    spec = replace(spec, input=wanted)
    # The layers that the file lacks are drawn as they are without a file.
    network = load_network(spec, size_wh=size_wh, num_keypoints=num_keypoints, generator=torch.Generator().manual_seed(seed))
    taken = take_weights(network, load_state_dict_file(file), source=str(file))
    context.notify(f"{title}: first weights from {file}: {taken}; it is fed {wanted.channels.upper()}")
    first = draft.folder / _FIRST
    first.write_atomic(encode_checkpoint(network.state_dict(), wanted.description))
    return replace(spec, checkpoint=first.file(facts_of(first.mirror())))


def _init_file(source: NetworkSource) -> Path | None:
    file = imagenet_file(source.network) if source.init == "imagenet" else source.init
    if file is not None and not file.is_file():
        raise WeightsError(f"The first weights {file} (init) do not exist", allowed="an existing .pth or .safetensors file")
    return file
