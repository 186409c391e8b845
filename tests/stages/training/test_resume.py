"""A training that is killed within an epoch resumes there, with the same batches and the same final weights."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.training.loop import WEIGHTS
from stages.training.plan import TrainingPlan
from storage_schemas.formats.checkpoints import load_weights
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
"""The checkout first: tests/stages must not be taken for the package of that name."""
INSTANCES, BATCH, EPOCHS = 33, 4, 2
STEPS = INSTANCES // BATCH
"""Steps of an epoch: 8; one instance is left out."""


def plan_in(folder: Path) -> TrainingPlan:
    """A senior's training: it also draws which masks are withheld, and a resumed one must draw the same."""
    folder.mkdir()
    plan = make_plan(folder, on_labels(EPOCHS), images=[1, 2, 3] * (INSTANCES // 3))
    plan = replace(plan, train=plan.train.model_copy(update={"batch_size": BATCH}))
    plan = replace(plan, feed_mask=True, mask_drop=0.5, network=replace(plan.network, senior=True))
    (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
    return plan


def run(folder: Path, *, world: int = 1, die_after: int = 0) -> list[int]:
    """Train with ``world`` processes that each die after ``die_after`` steps, and return their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [(rank, world, port, die_after) for rank in range(world)]
    # Safe path: the script's own folder is not put before PYTHONPATH.
    command = [sys.executable, "-P", str(ROOT / "tests" / "support" / "training_child.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen([*command, *map(str, each)], env=environment) for each in given]
    try:
        return [child.wait(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()


def steps(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"steps-{rank}.jsonl").read_text().splitlines()]


def rows(folder: Path, ranks: Sequence[int]) -> list[list[int]]:
    """The rows of each batch of all workers together."""
    return [
        sorted(row for step in together for row in step["rows"])
        for together in zip(*(steps(folder, rank) for rank in ranks), strict=True)
    ]


def assert_same_end(plan: TrainingPlan, unbroken: TrainingPlan) -> None:
    assert losses(local(plan.folder)) == losses(local(unbroken.folder))
    expected = load_weights(local(unbroken.folder) / WEIGHTS).state
    found = load_weights(local(plan.folder) / WEIGHTS).state
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_training_killed_twice_within_its_epochs_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, plan = plan_in(tmp_path / "unbroken"), plan_in(tmp_path / "killed")
    assert run(tmp_path / "unbroken") == [0]
    expected = steps(tmp_path / "unbroken")
    assert len(expected) == EPOCHS * STEPS
    # Saved after the steps 3 and 6 of each epoch of 8 steps, and at its end: 5 are done, of which 3 are kept, and 9 more, of
    # which 8 are (3 + 9 = 12 steps, which are an epoch, and 4 of the second: 8 + 3).
    assert run(tmp_path / "killed", die_after=5) == [-signal.SIGKILL]
    assert not (plan.folder / "epoch-00000.pt").exists()
    assert run(tmp_path / "killed", die_after=9) == [-signal.SIGKILL]
    assert run(tmp_path / "killed") == [0]
    done = steps(tmp_path / "killed")
    assert done == expected[:5] + expected[3:12] + expected[11:]
    assert_same_end(plan, unbroken)


def test_two_workers_killed_within_an_epoch_go_on_there_and_so_can_one_or_four(tmp_path: Path) -> None:
    unbroken, plan = plan_in(tmp_path / "unbroken"), plan_in(tmp_path / "killed")
    assert run(tmp_path / "unbroken", world=2) == [0, 0]
    assert run(tmp_path / "killed", world=2, die_after=5) == [-signal.SIGKILL] * 2
    others = {world: tmp_path / f"killed-{world}" for world in (1, 4)}
    for folder in others.values():
        plan_in(folder)
        for path in local(plan.folder).iterdir():
            (folder / "out" / path.name).write_bytes(path.read_bytes())
    assert run(tmp_path / "killed", world=2) == [0, 0]
    expected = rows(tmp_path / "unbroken", range(2))
    assert rows(tmp_path / "killed", range(2)) == expected[:5] + expected[3:]
    assert_same_end(plan, unbroken)
    for world, folder in others.items():
        assert run(folder, world=world) == [0] * world
        assert rows(folder, range(world)) == expected[3:]
        assert len(losses(folder / "out")) == EPOCHS
