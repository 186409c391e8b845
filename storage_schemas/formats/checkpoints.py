"""Checkpoints: a safetensors file with a description of the weights in its metadata, and a digest over both.

The metadata is one JSON text, since safetensors does not keep the order of several values, and equal weights must give equal
bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath

__all__ = ["CHECKPOINT_SCHEMA", "Checkpoint", "decode_checkpoint", "encode_checkpoint", "load_weights", "save_weights"]

CHECKPOINT_SCHEMA = 1
_KEY = "odkd_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and a description: the network's name and configuration."""

    state: dict[str, Tensor]
    description: dict[str, str]


def save_weights(path: Path, network: nn.Module, description: Mapping[str, str]) -> None:
    """Write the state of ``network`` to ``path`` atomically."""
    LocalPath(path).write_atomic(encode_checkpoint(network.state_dict(), description))


def load_weights(path: Path) -> Checkpoint:
    """Read a file of ``save_weights``; raises ``WeightsError`` if it is missing, damaged or of another schema."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no checkpoint at '{path}': {error.strerror}", allowed="a file that save_weights wrote") from error
    return decode_checkpoint(data, source=str(path))


def encode_checkpoint(state: Mapping[str, Tensor], description: Mapping[str, str]) -> bytes:
    """The bytes of a checkpoint, the same for the same weights and description."""
    from safetensors.torch import save

    # safetensors refuses tensors that share memory, such as tied weights of an exported program.
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in sorted(state.items())}
    record = {"schema": CHECKPOINT_SCHEMA, "description": dict(description), "sha256": _digest(tensors, description)}
    return save(tensors, metadata={_KEY: json.dumps(record, sort_keys=True)})


def decode_checkpoint(data: bytes, *, source: str) -> Checkpoint:
    """The inverse of ``encode_checkpoint``; any changed byte raises ``WeightsError``."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
        # The header of a safetensors file: 8 bytes of length, then JSON.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        record = json.loads(header["__metadata__"][_KEY])
        schema, description = record["schema"], record["description"]
        if schema == CHECKPOINT_SCHEMA and _digest(state, description) != record["sha256"]:
            raise ValueError("its contents differ from its digest")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"'{source}' is damaged or not a checkpoint: {error}", allowed="a file as save_weights wrote it"
        ) from error
    if schema != CHECKPOINT_SCHEMA:
        raise WeightsError(f"'{source}' has checkpoint schema {schema}", allowed=f"schema {CHECKPOINT_SCHEMA}")
    return Checkpoint(state, description)


def _digest(state: Mapping[str, Tensor], description: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(description), sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
