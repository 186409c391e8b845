"""The training loop of one process: resuming, what is taught, and what ends it, on a few small pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from plan_samples import losses, make_plan, on_labels
from torch import nn

from stages.learning import loop
from stages.learning.loop import METRICS, WEIGHTS, Worker, train
from stages.learning.plan import EpochPlan, TrainingPlan, Weights
from storage_schemas.checkpoints import load_weights
from storage_schemas.errors import TrainingError
from storage_schemas.targets import create_arrays, pack_bits, target_arrays, write_block

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

HEATMAP_WH = (16, 16)  # a quarter of the crops


def write_targets(folder: Path, bits_NKHW: npt.NDArray[np.bool_]) -> Path:
    folder.mkdir()
    create_arrays(folder, target_arrays(HEATMAP_WH, 17), len(bits_NKHW))
    peak = np.asarray(bits_NKHW.any(axis=(2, 3)), dtype=np.float16)
    write_block(folder, 0, {"bits": pack_bits(bits_NKHW), "peak": peak})
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / WEIGHTS).state


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, on_labels(3))
    train(plan, Worker())
    expected, weights = losses(plan.folder), state(plan.folder)
    for name in (WEIGHTS, METRICS):
        (plan.folder / name).unlink()
    newest = plan.folder / "epoch-00002.pt"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    train(plan, Worker())
    assert losses(plan.folder) == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(value, weights[name]) for name, value in state(plan.folder).items())
    assert len(expected) == 3


def test_a_finished_training_is_not_begun_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, on_labels(2))
    train(plan, Worker())
    before = (plan.folder / "epoch-00001.pt").stat().st_mtime_ns
    train(plan, Worker())
    assert (plan.folder / "epoch-00001.pt").stat().st_mtime_ns == before
    assert len(losses(plan.folder)) == 2


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_epoch(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, on_labels(2))
    plan = replace(plan, train=plan.train.model_copy(update={"lr": 1e30}))
    with pytest.raises(TrainingError, match=r"'test' is (nan|inf) in epoch"):
        train(plan, Worker())


def test_more_workers_than_people_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, on_labels(1), images=(1, 2))
    with pytest.raises(TrainingError, match="2 people to learn from and 4 workers"):
        train(plan, Worker(world=4))


def targets_of(plan: TrainingPlan, source: EpochPlan, row: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """What the student is taught about one person: target [K, H, W] and weight [K]."""
    session = loop._Session(plan, Worker())
    try:
        with loop._teachers(source, Worker()) as teachers:
            [[batch]] = session.loader.batches([np.array([row])], [session._views(source)], crop_divisor=plan.size_divisor)
            target, weight = session._targets(batch, source, teachers)
    finally:
        session.close()
    return target[0], weight[0]


def test_a_joint_without_bits_is_not_taught_and_one_with_bits_is(tmp_path: Path) -> None:
    bits = np.zeros((4, 17, 16, 16), dtype=bool)
    bits[:, 3, 5, 7] = True
    source = EpochPlan(view=0, weights=Weights(0.0, primary=1.0), primary=write_targets(tmp_path / "targets", bits))
    target, weight = targets_of(make_plan(tmp_path, [source]), source)
    assert weight.tolist() == [0, 0, 0, 1.0] + [0] * 13
    assert target[3].nonzero().tolist() == [[5, 7]]


def test_a_student_of_half_the_size_is_taught_the_same_place(tmp_path: Path) -> None:
    """Heatmap pixel (x, y) = (6, 10) of the teacher is cell (3, 5) of a student at half the size; its labels lie there too."""
    bits = np.zeros((4, 17, 16, 16), dtype=bool)
    bits[:, :, 10, 6] = True
    source = EpochPlan(view=0, weights=Weights(0.0, primary=1.0), primary=write_targets(tmp_path / "targets", bits))
    plan = replace(make_plan(tmp_path, [source]), size_divisor=2)
    target, _ = targets_of(plan, source)
    assert target.shape == (17, 8, 8)
    assert target[0].nonzero().tolist() == [[5, 3]]


class Recorder(nn.Module):
    """The network, and what it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.given: list[tuple[torch.Tensor, ...]] = []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.given.append(inputs)
        heat: torch.Tensor = self.network(*inputs)
        return heat


def test_each_worker_withholds_other_masks(tmp_path: Path) -> None:
    plan = replace(make_plan(tmp_path, on_labels(1), images=[1] * 64), feed_mask=True, mask_drop=0.5)
    plan = replace(plan, train=plan.train.model_copy(update={"batch_size": 64}), network=replace(plan.network, senior=True))
    seen = []
    for rank in range(2):
        recorders: list[Recorder] = []

        def wrap(network: nn.Module, made: list[Recorder] = recorders) -> nn.Module:
            made.append(Recorder(network))
            return made[-1]

        train_folder = plan.folder / str(rank)
        train_folder.mkdir()
        train(replace(plan, folder=train_folder), Worker(rank=rank, world=2, wrap=wrap))
        seen.append(recorders[0].given[0][2].tolist())
    assert len(seen[0]) == len(seen[1]) == 32
    assert seen[0] != seen[1]
    assert all(6 <= sum(kept) <= 26 for kept in seen), "half of them, more or less"
