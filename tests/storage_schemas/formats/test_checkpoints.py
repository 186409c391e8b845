"""Checkpoints: reading returns the weights written, equal weights have equal bytes, and damage raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import decode_checkpoint, encode_checkpoint, load_weights, save_weights

STATE = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.count": torch.tensor(7),
    "a.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}
DESCRIPTION = {"network": "hrnet_w16", "config": '{"width": 16}'}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_loading_returns_the_saved_weights(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    save_weights(tmp_path / "w.safetensors", network, DESCRIPTION)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert _equal(loaded.state, network.state_dict())
    assert loaded.description == DESCRIPTION


def test_the_same_weights_give_the_same_bytes_in_any_order() -> None:
    turned = dict(reversed(STATE.items()))
    assert encode_checkpoint(STATE, DESCRIPTION) == encode_checkpoint(turned, dict(reversed(DESCRIPTION.items())))


def test_shared_and_strided_tensors_are_kept_by_value() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    state = {"first": base, "tied": base, "turned": base.t()}
    assert _equal(decode_checkpoint(encode_checkpoint(state, {}), source="x").state, state)


@given(
    name=st.text(min_size=1, max_size=8).filter(lambda text: text != "__metadata__"),
    text=st.text(max_size=20),
    size=st.integers(0, 5),
)
def test_any_name_and_description_can_be_stored(name: str, text: str, size: int) -> None:
    state = {name: torch.full((size,), 0.25)}
    loaded = decode_checkpoint(encode_checkpoint(state, {text: text}), source="x")
    assert _equal(loaded.state, state)
    assert loaded.description == {text: text}


def test_any_changed_byte_raises() -> None:
    data = encode_checkpoint(STATE, DESCRIPTION)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        with pytest.raises(WeightsError, match="teacher"):
            decode_checkpoint(bytes(damaged), source="teacher")


def test_a_truncated_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    data = encode_checkpoint(STATE, DESCRIPTION)
    for keep in (0, 7, 50, len(data) - 1):
        with pytest.raises(WeightsError, match="damaged"):
            decode_checkpoint(data[:keep], source="teacher")
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_weights(tmp_path / "none.safetensors")


def test_another_programs_safetensors_and_another_schema_are_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_weights(tmp_path / "foreign.safetensors")
    record = '{"schema": 99, "description": {}, "sha256": ""}'
    with pytest.raises(WeightsError, match="schema 99") as caught:
        decode_checkpoint(save(STATE, metadata={"odkd_checkpoint": record}), source="future")
    assert caught.value.allowed == "schema 1"
