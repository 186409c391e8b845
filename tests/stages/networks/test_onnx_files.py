"""A network of several files is all of them: they are found, stay in their folder, and are part of the key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.given_weights import copy_weights, given_recipe
from stages.networks.load import load_network
from stages.networks.onnx_files import data_files
from stages.networks.spec import NetworkSpec
from stages.settings import TeacherSource
from stages.teachers import network_spec
from storage_schemas.errors import WeightsError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Store
from tests.support.onnx_samples import convolution, field, model, node, tensor, with_data_file

SMALL_WH = (32, 64)


def _recipe(path: Path) -> dict[str, object]:
    source = TeacherSource(weights=path)
    return given_recipe(source, "primary", size_wh=list(SMALL_WH), version=1)


def test_a_network_of_one_file_has_the_recipe_of_earlier_releases(tmp_path: LocalPath) -> None:
    (tmp_path / "teacher.onnx").write_bytes(convolution(*SMALL_WH)[0])
    assert data_files(tmp_path / "teacher.onnx") == ()
    assert _recipe(tmp_path / "teacher.onnx").keys() == {"network", "size_wh", "weights", "version"}


@pytest.mark.parametrize("name", ["teacher.onnx.data", "parts/weights.bin", "weights.onnx"])
def test_a_data_file_is_found_and_other_weights_in_it_are_another_teacher(name: str, tmp_path: LocalPath) -> None:
    path = with_data_file(tmp_path, name=name)
    assert data_files(path) == (name,)
    main, first = path.read_bytes(), _recipe(path)
    with_data_file(tmp_path, name=name, seed=1)
    assert path.read_bytes() == main
    second = _recipe(path)
    assert first["weights"] == second["weights"]
    assert first != second


def test_data_files_in_constants_and_in_bodies_of_loops_are_found(tmp_path: LocalPath) -> None:
    value = np.zeros(3, np.float32)
    constant = node(
        "Constant", [], ["c"], field(1, "value") + field(5, tensor("", value, data_file=("a.bin", 0))) + field(20, 4)
    )
    inner = field(5, tensor("w", value, data_file=("b.bin", 0)))
    branch = node("If", ["x"], ["y"], field(1, "then_branch") + field(6, inner) + field(20, 5))
    (tmp_path / "t.onnx").write_bytes(model([constant, branch], [], [], []))
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).touch()
    assert data_files(tmp_path / "t.onnx") == ("a.bin", "b.bin")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "parts/../../secret", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: LocalPath) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4000))
    (folder / "teacher.onnx").write_bytes(convolution(*SMALL_WH, data_file=name)[0])
    with pytest.raises(WeightsError, match=r"leads out of its folder|which is missing"):
        load_network(NetworkSpec(weights=folder / "teacher.onnx"), size_wh=SMALL_WH, num_keypoints=17)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "out").mkdir()
    path = with_data_file(tmp_path)
    data = tmp_path / "teacher.onnx.data"
    data.rename(tmp_path / "out" / "data")
    data.symlink_to(tmp_path / "out" / "data")
    assert data_files(path) == ("teacher.onnx.data",)
    (tmp_path / "in").mkdir()
    path.rename(tmp_path / "in" / "teacher.onnx")
    data.rename(tmp_path / "in" / data.name)
    with pytest.raises(WeightsError, match=r"'teacher\.onnx\.data', which leads out of its folder"):
        data_files(tmp_path / "in" / "teacher.onnx")


def test_a_missing_data_file_is_named(tmp_path: LocalPath) -> None:
    path = with_data_file(tmp_path)
    (tmp_path / "teacher.onnx.data").unlink()
    with pytest.raises(WeightsError, match=r"'teacher\.onnx\.data' beside it, which is missing") as caught:
        data_files(path)
    assert "external_data=False" in caught.value.allowed


@pytest.mark.parametrize("name", ["teacher.onnx.data", "parts/weights.bin", "weights.onnx", "manifest.json"])
def test_all_files_are_copied_into_the_entry_and_the_network_loads_from_there(name: str, tmp_path: LocalPath) -> None:
    (tmp_path / "user").mkdir()
    path = with_data_file(tmp_path / "user", name=name)
    with Store(tmp_path / "store").draft("teachers", _recipe(path)) as draft:
        assert isinstance(draft, Draft)
        named = copy_weights(path, draft)
        files = [named["weights"], *named["data"]]
        entry = draft.commit(files, measured={"network": None, "senior": False, **named})
    assert network_spec(entry).data
    image = torch.randn(2, 3, SMALL_WH[1], SMALL_WH[0], generator=torch.Generator().manual_seed(0))
    (stored, given) = (
        load_network(spec, size_wh=SMALL_WH, num_keypoints=17) for spec in (network_spec(entry), NetworkSpec(weights=path))
    )
    assert torch.equal(stored(image), given(image))
    entry.check()


def test_a_node_that_reads_a_bucket_gets_all_files(
    bucket: BucketPath, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_data_file(tmp_path, name="parts/weights.bin")
    with Store(bucket / "store").draft("teachers", _recipe(path)) as draft:
        assert isinstance(draft, Draft)
        named = copy_weights(path, draft)
        entry = draft.commit([named["weights"], *named["data"]], measured={"network": None, "senior": False, **named})
    monkeypatch.setenv("ODKD_CACHE", str(tmp_path / "another node"))
    load_network(network_spec(entry), size_wh=SMALL_WH, num_keypoints=17)
    found = sorted(file.name for file in (tmp_path / "another node").rglob("weights.*"))
    assert found == ["weights.bin", "weights.onnx"]


def test_weights_that_change_while_they_are_copied_are_refused(tmp_path: LocalPath) -> None:
    path = with_data_file(tmp_path)
    with Store(tmp_path / "store").draft("teachers", _recipe(path)) as draft:
        assert isinstance(draft, Draft)
        with_data_file(tmp_path, seed=1)
        with pytest.raises(WeightsError, match="changed while they were read"):
            copy_weights(path, draft)


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x7f", b"<html>", b"\x3a\x03\x2a\x80\x80"])
def test_a_file_that_is_no_network_has_no_data_files(data: bytes, tmp_path: LocalPath) -> None:
    (tmp_path / "t.onnx").write_bytes(data)
    assert data_files(tmp_path / "t.onnx") == ()
