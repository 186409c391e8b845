"""Weights files with faults: each is read or refused with its name, without a crash, in seconds and a few hundred MB."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import pytest

from stages.networks.exported import load_exported
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath
from tests.support.weights_fuzz import KINDS, load_mutated

pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "files"), [("zip", 60), ("legacy", 60), ("safetensors", 60), ("program", 8), ("onnx", 2)])
def test_a_sample_of_files_with_faults_is_read_or_refused(kind: str, files: int, tmp_path: LocalPath) -> None:
    outcome = load_mutated(tmp_path, [kind], range(files))
    assert outcome.faults == []
    assert sum(outcome.counts.values()) == files
    assert outcome.slowest < 10, outcome.slowest_file


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_files_with_faults_are_read_or_refused_in_a_process_that_stays_small(kind: str, tmp_path: LocalPath) -> None:
    command = [sys.executable, "-m", "tests.support.weights_fuzz", str(tmp_path), "1000", "1200", kind]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert outcome["faults"] == []
    assert sum(outcome["counts"].values()) == 200
    assert outcome["slowest"] < 10, outcome["slowest_file"]
    assert outcome["megabytes"] < 500


def test_the_reason_why_a_program_is_broken_is_the_error_and_not_a_traceback_in_the_log(
    tmp_path: LocalPath, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(KINDS["program"][1]())) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, content[:20] if "/weights/weight_" in info.filename else content)
    (tmp_path / "short.pt2").write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match=r"out of bounds for storage of size 20"):
        load_exported(tmp_path / "short.pt2")
    assert "Traceback" not in caplog.text + capfd.readouterr().err
