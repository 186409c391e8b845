"""The training loop of one process on a few small images: resuming, masks, and errors that end it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from stages.training.curve import METRICS
from stages.training.loop import WEIGHTS, Worker, train
from storage_schemas.errors import TrainingError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def state(folder: LocalPath) -> dict[str, torch.Tensor]:
    return load_weights(folder / WEIGHTS).state


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path: LocalPath) -> None:
    plan = make_plan(tmp_path, on_labels(3))
    train(plan, Worker())
    expected, weights = losses(local(plan.folder)), state(local(plan.folder))
    for name in (WEIGHTS, METRICS):
        (plan.folder / name).unlink()
    newest = plan.folder / "epoch-00002.pt"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    local(newest).write_bytes(damaged)
    train(plan, Worker())
    assert losses(local(plan.folder)) == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(value, weights[name]) for name, value in state(local(plan.folder)).items())
    assert len(expected) == 3


def test_a_finished_training_does_not_start_again(tmp_path: LocalPath) -> None:
    plan = make_plan(tmp_path, on_labels(2))
    train(plan, Worker())
    before = local(plan.folder / "epoch-00001.pt").stat().st_mtime_ns
    train(plan, Worker())
    assert local(plan.folder / "epoch-00001.pt").stat().st_mtime_ns == before
    assert len(losses(local(plan.folder))) == 2


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_epoch(tmp_path: LocalPath) -> None:
    plan = make_plan(tmp_path, on_labels(2))
    plan = replace(plan, train=plan.train.model_copy(update={"lr": 1e30}))
    with pytest.raises(TrainingError, match=r"after step \d of epoch 1"):
        train(plan, Worker())


def test_more_workers_than_instances_are_refused(tmp_path: LocalPath) -> None:
    plan = make_plan(tmp_path, on_labels(1), images=(1, 2))
    with pytest.raises(TrainingError, match="2 training instances and 4 workers"):
        train(plan, Worker(world=4))


class Recorder(nn.Module):
    """The network, and a record of its inputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.given: list[tuple[torch.Tensor, ...]] = []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.given.append(inputs)
        heat: torch.Tensor = self.network(*inputs)
        return heat


def test_workers_withhold_different_masks(tmp_path: LocalPath) -> None:
    plan = replace(make_plan(tmp_path, on_labels(1), images=[1] * 64), feed_mask=True, mask_drop=0.5)
    plan = replace(plan, train=plan.train.model_copy(update={"batch_size": 64}), network=replace(plan.network, senior=True))
    seen = []
    for rank in range(2):
        recorders: list[Recorder] = []

        def wrap(network: nn.Module, made: list[Recorder] = recorders) -> nn.Module:
            made.append(Recorder(network))
            return made[-1]

        train_folder = plan.folder / str(rank)
        train_folder.make_folder()
        train(replace(plan, folder=train_folder), Worker(rank=rank, world=2, wrap=wrap))
        seen.append(recorders[0].given[0][2].tolist())
    assert len(seen[0]) == len(seen[1]) == 32
    assert seen[0] != seen[1]
    assert all(6 <= sum(kept) <= 26 for kept in seen), "half of them, more or less"
