"""A file that is no weights is named for what it is; archives cannot become more than the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from stages.networks.exported import load_exported
from stages.networks.file_kind import refuse_other_kind
from stages.networks.weights import load_state_dict_file
from storage_schemas.errors import WeightsError


def _zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, weight=np.zeros(3))
    return stream.getvalue()


OTHERS = {
    "page": (b"<!DOCTYPE html><html><head><title>Quota exceeded</title>", "begins like an HTML page"),
    "page after a mark and blanks": (b"\xef\xbb\xbf\n <HTML>\n<body>", "begins like an HTML page"),
    "answer of a bucket": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "begins like XML"),
    "answer of an interface": (b'{"error": "not found"}', "begins like JSON"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 114\n", "is a Git LFS pointer"),
    "pointer of git-annex": (b"/annex/objects/SHA256E-s114--0.pth\n", "is a git-annex pointer"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(30), "is compressed with gzip"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(30), "is an HDF5 file"),
    "TorchScript": (_zipped("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"), "is a TorchScript archive"),
    "program": (_zipped("net/archive_format", "net/models/model.json"), r"is a torch\.export program"),
    "arrays": (_npz(), r"is a zip archive that holds 'weight\.npy'"),
    "safetensors": (save_safetensors({"a": torch.zeros(2)}), "is a safetensors file"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x3a\x00", "is an ONNX network"),
    "cut archive": (_saved({"a": torch.zeros(500)})[:1500], "the directory at its end is missing"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_named_and_no_unsafe_way_to_read_it_is_shown(name: str, tmp_path: Path) -> None:
    data, message = OTHERS[name]
    path = tmp_path / "pose_hrnet_w32_256x192.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        load_state_dict_file(path)
    assert str(path) in caught.value.seen
    assert "weights_only" not in str(caught.value)
    assert caught.value.remedy is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
@pytest.mark.parametrize("name", ["page", "pointer"])
def test_pages_and_pointers_are_named_in_place_of_every_format(name: str, suffix: str, tmp_path: Path) -> None:
    data, message = OTHERS[name]
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(data)

    def load() -> None:
        if suffix == ".safetensors":
            load_state_dict_file(path)
        elif suffix == ".pt2":
            load_exported(path)
        else:
            refuse_other_kind(path, wanted="onnx")

    with pytest.raises(WeightsError, match=message):
        load()


def test_an_unknown_file_is_shown_by_its_size_and_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(b"\x01\x02 no weights \x1b[2J at all")
    with pytest.raises(WeightsError, match=r"it has 25 bytes and begins with '\\x01\\x02 no weights") as caught:
        load_state_dict_file(path)
    assert "\x1b" not in str(caught.value)


def _deflated(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return stream.getvalue()


def test_compressed_weights_are_refused_before_they_become_large(tmp_path: Path) -> None:
    data = _deflated(_saved({"a": torch.zeros(1_000_000)}))
    assert len(data) < 10_000
    for suffix in (".pth", ".pt"):
        (tmp_path / f"bomb{suffix}").write_bytes(data)
        with pytest.raises(WeightsError, match=r"compressed: \d+ bytes become"):
            load_state_dict_file(tmp_path / f"bomb{suffix}")


def test_members_that_lie_on_each_other_or_stand_twice_are_refused(tmp_path: Path) -> None:
    data = _saved({"a": torch.zeros(100_000)})
    path = tmp_path / "odd.pth"
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"")
    path.write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match="holds a member twice"):
        load_state_dict_file(path)
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive:
        big = archive.getinfo("archive/data/0")
        for number in range(1, 9):
            other = zipfile.ZipInfo(f"archive/data/{number}")
            other.CRC, other.header_offset, other.file_size, other.compress_size = (
                big.CRC,
                big.header_offset,
                big.file_size,
                big.compress_size,
            )
            archive.filelist.append(other)
        archive._didModify = True  # type: ignore[attr-defined]
    path.write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match=r"the members of .* have \d+ bytes, and the file has"):
        load_state_dict_file(path)
