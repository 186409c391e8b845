"""The facts beside the figures: the version of the code and the size of the measurement."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.bench import about
from pipeline.bench.scale import FULL, FULL_ON_GPU

HERE = Path(__file__).parent


@pytest.mark.skipif(shutil.which("git") is None or not (HERE.parents[2] / ".git").exists(), reason="needs a checkout, and git")
def test_the_commit_is_that_of_the_checkout() -> None:
    head = subprocess.run(["git", "-C", str(HERE), "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    commit = about._commit()
    assert commit is not None
    assert head.startswith(commit.removesuffix("-dirty"))


def test_a_copy_outside_every_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "__file__", str(tmp_path / "about.py"))
    assert about._commit() is None


def test_a_gpu_fills_a_block_as_large_as_those_of_coco() -> None:
    """149,813 instances / 64 blocks are 2,340.8 each, which is 37 chunks of 64; a small data set has the smallest block."""
    assert (FULL_ON_GPU.fill_instances, FULL.fill_instances) == (37 * 64, 256)
