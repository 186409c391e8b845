"""What could hang, crash or fill the memory of this process is tried in another one first."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from stages.networks import onnx_child, onnx_trial
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath
from tests.support.onnx_samples import convolution, endless_loop, huge_constant, two_outputs, with_data_file

pytest.importorskip("onnxruntime")
SMALL_WH = (32, 64)


def _load(path: Path) -> object:
    return load_network(NetworkSpec(weights=path), size_wh=SMALL_WH, num_keypoints=17)


def test_a_loop_without_end_is_refused_after_a_few_seconds(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_trial, "_SECONDS", 2)
    (tmp_path / "loop.onnx").write_bytes(endless_loop(*SMALL_WH))
    start = time.process_time()
    with pytest.raises(WeightsError, match="computes for more than 2 s on two images; it may hold a loop without end"):
        _load(tmp_path / "loop.onnx")
    assert time.process_time() - start < 1


def test_a_tensor_of_256_gigabytes_is_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "huge.onnx").write_bytes(huge_constant(*SMALL_WH))
    with pytest.raises(WeightsError, match=r"huge\.onnx' (cannot be read as ONNX|fails on an input of 2x3x64x32)"):
        _load(tmp_path / "huge.onnx")


def test_a_crash_of_onnxruntime_ends_only_the_other_process(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text(f"import os, signal; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    monkeypatch.setattr(onnx_child, "__file__", str(crash))
    (tmp_path / "t.onnx").write_bytes(convolution(*SMALL_WH)[0])
    with pytest.raises(WeightsError, match=r"crashes onnxruntime \(SIGSEGV\)"):
        _load(tmp_path / "t.onnx")


def test_a_good_network_is_tried_once_until_one_of_its_files_changes(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_data_file(tmp_path)
    _load(path)
    monkeypatch.setattr(onnx_child, "__file__", str(tmp_path / "none.py"))
    _load(path)
    (tmp_path / "teacher.onnx.data").touch()
    with pytest.raises(WeightsError, match=r"crashes onnxruntime \(exit status 2\)"):
        _load(path)


def test_a_file_with_several_outputs_is_refused_with_their_names(tmp_path: LocalPath) -> None:
    (tmp_path / "stacks.onnx").write_bytes(two_outputs(*SMALL_WH))
    with pytest.raises(WeightsError, match=r"stacks\.onnx' gives 2 outputs: stack_1, stack_2"):
        _load(tmp_path / "stacks.onnx")
