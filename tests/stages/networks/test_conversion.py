"""The command that converts a checkpoint with code in it works on this checkpoint, or there is none."""

from __future__ import annotations

import argparse
import datetime as dt
import pickle
import shlex
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages import teachers
from stages.networks.weights import load_state_dict_file
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.step_samples import make_context

State = dict[str, Tensor]
ARGUMENTS = argparse.Namespace(lr=0.001)


def _refused(path: Path) -> WeightsError:
    with pytest.raises(WeightsError, match="no code of the file was run") as caught:
        load_state_dict_file(path)
    assert "weights_only" not in caught.value.seen
    return caught.value


class _Ema:
    """An object of a training script beside the weights."""

    decay = 0.999


CHECKPOINTS: dict[str, Callable[[nn.Module], object]] = {
    "model": lambda network: {"model": network.state_dict(), "args": ARGUMENTS},
    "state_dict": lambda network: {"state_dict": network.state_dict(), "args": ARGUMENTS, "epoch": 3},
    "model_ema": lambda network: {"model_ema": network.state_dict(), "args": ARGUMENTS},
    "a network under model": lambda network: {"model": network, "epoch": 3},
    "a network under another name": lambda network: {"pose": network, "args": ARGUMENTS},
    "a whole network": lambda network: network,
    "tensors beside other things": lambda network: {**network.state_dict(), "epoch": 3, "when": dt.date(2020, 1, 1)},
    "a dict with a counter in it": lambda network: {"model": OrderedDict(**network.state_dict(), steps=7), "args": ARGUMENTS},
}


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_command_converts_the_checkpoint_it_is_given_for(
    name: str, zipped: bool, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINTS[name](network), path, _use_new_zipfile_serialization=zipped)
    python, option, code, *arguments = shlex.split(suggested(_refused(path)))
    assert (python, option) == ("python", "-c")
    assert arguments == [str(path), f"{path}.clean.pth"]
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    found = load_state_dict_file(Path(arguments[1]))
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_the_command_works_in_a_shell_for_a_name_that_a_shell_would_change(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / 'it\'s $HOME `x` "best".pth'
    torch.save({"model": network.state_dict(), "args": ARGUMENTS}, path)
    command = suggested(_refused(path))
    assert command.startswith("python -c ")
    subprocess.run(f"{shlex.quote(sys.executable)} {command.removeprefix('python ')}", shell=True, check=True, cwd="/")
    assert load_state_dict_file(Path(f"{path}.clean.pth")).keys() == network.state_dict().keys()


def test_a_file_of_another_protocol_is_converted_by_the_command(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": network.state_dict()}, path, pickle_protocol=4)
    with pytest.raises(WeightsError, match="its pickle has another protocol than 2") as caught:
        load_state_dict_file(path)
    _, _, code, *arguments = shlex.split(suggested(caught.value))
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    assert load_state_dict_file(Path(arguments[1])).keys() == network.state_dict().keys()


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_command_is_proposed_for_a_pickle_that_torch_did_not_save(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(pickle.dumps({"model": {"weight": torch.zeros(3)}, "args": ARGUMENTS}, protocol=protocol))
    with pytest.raises(WeightsError) as caught:
        load_state_dict_file(path)
    assert caught.value.remedy is None


def test_the_command_of_a_run_names_the_users_file_and_not_the_copy_in_the_store(
    network: nn.Module, tmp_path: LocalPath
) -> None:
    path = tmp_path / "user" / "checkpoint.pth"
    path.parent.mkdir()
    torch.save({"model": network.state_dict(), "args": ARGUMENTS}, path)
    weights = f'{{"weights": "{path}", "network": "hrnet_w8_tiny", "train": null}}'
    context = make_context(tmp_path / "home", f"teachers.primary={weights}")
    step = teachers.teacher_step(context, "primary")
    with pytest.raises(WeightsError) as caught:
        teachers.make(context, [step])
    assert str(path) in caught.value.seen
    command = suggested(caught.value)
    assert shlex.split(command)[-2:] == [str(path), f"{path}.clean.pth"]
    assert str(tmp_path / "home") not in f"{caught.value}{command}"


def _with_module(path: Path, network: nn.Module, name: str) -> None:
    """A checkpoint with an object whose class is in the module ``name``, which this process cannot import."""
    torch.save({"model": network.state_dict(), "ema": _Ema()}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    old = f"c{_Ema.__module__}\n_Ema\n".encode()
    assert old in data
    path.write_bytes(data.replace(old, f"c{name}\n_Ema\n".encode()))


def test_the_command_for_a_class_that_is_not_installed_says_where_it_works(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "epoch_210.pth"
    _with_module(path, network, "mmengine_of_tests.logging")
    error = _refused(path)
    assert error.remedy is not None
    assert error.remedy.action == "advice"
    assert suggested(error).startswith("in an environment where Python can import mmengine_of_tests: python -c ")


@pytest.mark.parametrize("name", ["__main__", "posix", "subprocess", "builtins"])
def test_no_command_is_proposed_that_cannot_work_or_runs_an_attack(name: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    _with_module(path, network, name)
    assert _refused(path).remedy is None


def test_no_command_is_proposed_where_there_are_no_weights(tmp_path: Path) -> None:
    for number, content in enumerate(({"args": ARGUMENTS}, ARGUMENTS, [ARGUMENTS, torch.zeros(3)])):
        torch.save(content, tmp_path / f"{number}.pth")
        assert _refused(tmp_path / f"{number}.pth").remedy is None


def test_into_a_folder_that_cannot_be_written_the_command_writes_nothing(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": network.state_dict(), "args": ARGUMENTS}, path)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert shlex.split(suggested(_refused(path)))[-1] == "checkpoint.pth.clean.pth"
