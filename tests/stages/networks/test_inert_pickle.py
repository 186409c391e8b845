"""What a pickle holds is known before PyTorch reads it: sizes, names, and what would take for ever."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.networks.inert_pickle import TensorNote, read_content
from stages.networks.weights import fit_weights, load_state_dict_file
from storage_schemas.errors import WeightsError
from tests.support.toy_network import ToyConfig


@pytest.mark.parametrize("zipped", [True, False])
def test_the_tensors_of_both_formats_are_noted_with_their_sizes(zipped: bool, tmp_path: Path) -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.nn.Parameter(torch.zeros(5)), "c": torch.zeros(4, dtype=torch.int64)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    content = read_content(tmp_path / "w.pth")
    assert isinstance(content.root, dict)
    assert content.root["epoch"] == 3
    assert {name: note.elements for name, note in content.root["model"].items()} == {"a": 6, "b": 5, "c": 4}
    assert all(isinstance(note, TensorNote) for note in content.root["model"].values())


class _Call:
    """An object whose pickle calls a function of PyTorch's list of allowed ones."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def _archive(path: Path, pickled: bytes) -> Path:
    """A file in the format of torch.save with this pickle."""
    stream = io.BytesIO()
    torch.save({}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, pickled if info.filename.endswith("data.pkl") else old.read(info))
    return path


@pytest.mark.parametrize("function", [bytearray, torch.Tensor, torch.UntypedStorage])
def test_a_few_bytes_that_ask_for_gigabytes_are_refused(function: object, tmp_path: Path) -> None:
    path = _archive(tmp_path / "bomb.pth", pickle.dumps({"a": _Call(function, 1 << 40)}, protocol=2))
    with pytest.raises(WeightsError, match="1099511627776 elements without their values"):
        load_state_dict_file(path)


def _tensor_of(path: Path, size: tuple[int, ...]) -> Path:
    """A file whose one tensor has these sizes."""
    arguments = (_Call(torch.UntypedStorage), 0, size, (1,) * len(size), False, OrderedDict[str, object]())
    return _archive(path, pickle.dumps({"a": _Call(torch._utils._rebuild_tensor_v2, *arguments)}, protocol=2))


@pytest.mark.parametrize("size", [(2**2000,) * 9, (-(2**2000),) * 9, (2**40,) * 9])
def test_a_tensor_of_a_size_that_cannot_be_printed_is_refused_like_any_other(size: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has \d+ bytes and holds a tensor of 9223372036854775808 numbers"):
        load_state_dict_file(_tensor_of(tmp_path / "w.pth", size))


def test_a_file_of_long_sizes_is_refused_at_once(tmp_path: Path) -> None:
    path = _tensor_of(tmp_path / "w.pth", (1 << 20_000_000,) * 12)
    began = time.process_time()
    with pytest.raises(WeightsError, match="a tensor of 9223372036854775808 numbers"):
        load_state_dict_file(path)
    # The product of these numbers took 6 s.
    assert time.process_time() - began < 3


def test_a_long_number_for_an_allocation_is_not_printed(tmp_path: Path) -> None:
    path = _archive(tmp_path / "bomb.pth", pickle.dumps({"a": _Call(torch.UntypedStorage, 1 << 50_000)}, protocol=2))
    with pytest.raises(WeightsError, match=r"UntypedStorage of 9223372036854775808 elements"):
        load_state_dict_file(path)


def test_a_tensor_without_elements_is_no_larger_than_its_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 40, 0)}, tmp_path / "w.pth")
    assert load_state_dict_file(tmp_path / "w.pth")["a"].shape == (1 << 40, 0)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_is_larger_than_its_file_is_refused(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"has \d+ bytes and holds a tensor of 1099511627776 numbers"):
        load_state_dict_file(tmp_path / "w.pth")


def test_a_key_whose_hash_takes_for_ever_is_refused_at_once(tmp_path: Path) -> None:
    key = b"(t" + b"".join(b"\x85q" + bytes([n]) + b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    path = _archive(tmp_path / "slow.pth", b"\x80\x02}" + key + b"K\x01s.")
    with pytest.raises(WeightsError, match="nested tuples as the key of a dict"):
        load_state_dict_file(path)


UNUSABLE = {
    "float8_e4m3fn": torch.zeros(3).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.zeros(3).to(torch.float8_e5m2),
    "complex64": torch.zeros(3, dtype=torch.complex64),
    "on the device meta": torch.zeros(3, device="meta"),
    "sparse_coo": torch.zeros(3, 3).to_sparse(),
    "uint16": torch.zeros(3, dtype=torch.uint16),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_that_are_no_weights_are_named_with_their_kind(kind: str, tmp_path: Path) -> None:
    torch.save({"model": {"conv.weight": UNUSABLE[kind], "conv.bias": torch.zeros(3)}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"no weights: conv\.weight \(.*{kind}\)"):
        load_state_dict_file(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"no weights: conv\.weight \(.*{kind}\)"):
        fit_weights(ToyConfig(2).build(num_keypoints=3), {"conv.weight": UNUSABLE[kind]}, source="w.pth")


def test_float8_in_safetensors_is_refused_in_words(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"a \(float8_e4m3fn\)"):
        load_state_dict_file(tmp_path / "w.safetensors")


HEADERS = {
    "longer than the file": (1 << 62).to_bytes(8, "little") + b"{}",
    "nested": b"[" * 50_000,
    "no object": b"3",
    "overlapping": b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}',
    "overflowing": b'{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}',
    "unknown type": b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
    "negative": b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
    "no text": b"\xff\xfe{}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_headers_of_safetensors_are_refused(kind: str, tmp_path: Path) -> None:
    header = HEADERS[kind]
    data = header if kind == "longer than the file" else len(header).to_bytes(8, "little") + header + bytes(16)
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_state_dict_file(tmp_path / "w.safetensors")
