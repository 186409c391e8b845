"""A training that is killed within an epoch resumes there, with the same batches and the same final weights."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.networks.spec import NetworkSpec
from stages.training.loop import WEIGHTS
from stages.training.plan import TrainingPlan
from stages.training_settings import HardSettings
from storage_schemas.formats.checkpoints import load_weights
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels
from tests.support.training_child import train_child

pytestmark = pytest.mark.slow

HARD = HardSettings(joint_cutout=0.5, cutout=0.5, colour=0.3, blur=0.5)
PROCESSES = multiprocessing.get_context("forkserver")
"""One process imports torch, and each child is a fork of it: 15 imports of 5 s each would take longer than the trainings."""
PROCESSES.set_forkserver_preload(["tests.support.training_child"])
INSTANCES, BATCH, EPOCHS = 33, 4, 2
STEPS = INSTANCES // BATCH
"""Steps of an epoch: 8; one instance is left out."""


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Let the fork server import the checkout's modules, and use one thread a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def plan_in(folder: Path) -> TrainingPlan:
    """A senior's training with harder crops: it also draws which masks are withheld, and a resumed one must draw the same."""
    folder.mkdir()
    plan = make_plan(folder, on_labels(EPOCHS), images=[1, 2, 3] * (INSTANCES // 3))
    plan = replace(plan, train=plan.train.model_copy(update={"batch_size": BATCH}))
    plan = replace(plan, feed_mask=True, mask_drop=0.5, hard=HARD, network=NetworkSpec(network="hrnet_w8_tiny", senior=True))
    (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
    return plan


def run(folder: Path, *, world: int = 1, die_after: int = 0) -> list[int]:
    """Train with ``world`` processes that each die after ``die_after`` steps, and return their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [PROCESSES.Process(target=train_child, args=(folder, rank, world, port, die_after)) for rank in range(world)]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(240)
        return [-1 if child.exitcode is None else child.exitcode for child in children]
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


def test_two_workers_killed_within_an_epoch_resume_there_and_so_can_one_or_four(tmp_path: Path) -> None:
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
