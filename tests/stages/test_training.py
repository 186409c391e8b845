"""How trainings are shared out over processors, by hand, and what several workers learn; the rest runs in tests/pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from buckets import local
from plan_samples import losses, make_plan, on_labels
from torch import nn

from stages.context import Context
from stages.learning.loop import WEIGHTS
from stages.learning.plan import TrainingPlan
from stages.networks.teacher import NetworkSpec
from stages.settings import DataSettings, EmbeddedData, Settings, TeacherSource, TeachersSettings, TrainSettings
from stages.training import cpus_of_process, run_trainings
from storage_schemas.checkpoints import load_weights


@pytest.mark.parametrize(
    ("nodes", "processes", "cpus"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 4, 0.5),
        ([16], 3, 5),
        ([16, 16, 16, 16], 4, 16),  # one on each node, not four on the first
        ([16, 16], 4, 8),
        ([16, 4], 2, 8),
        ([0, 8], 1, 8),  # a head without processors
        ([3, 3], 4, 1),
    ],
)
def test_every_process_gets_the_most_for_which_all_find_a_place(nodes: list[int], processes: int, cpus: float) -> None:
    assert cpus_of_process(nodes, processes) == cpus


class _WithoutBatchNorm(nn.Module):
    """Heatmaps of 17 joints; batch norm would count over the people of one worker, and so differ by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Conv2d(8, 17, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.head(torch.relu(self.stem(image)))
        return heat


def _exported(path: Path) -> Path:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    image = torch.zeros(2, 3, 64, 64)
    torch.export.save(torch.export.export(_WithoutBatchNorm(), (image,), dynamic_shapes=({0: batch},)), path)
    return path


def _plan(folder: Path, program: Path, *, workers: int) -> TrainingPlan:
    folder.mkdir()
    plan = make_plan(folder, on_labels(3), images=(1, 2, 3, 4, 5, 6, 7, 8))
    train = plan.train.model_copy(update={"batch_size": 4, "workers": workers, "optimizer": "sgd", "lr": 0.01})
    return replace(plan, network=NetworkSpec(weights=program), train=train)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    """Each step is one of the mean gradient over the whole batch, however it is shared out; so is the loss that is told."""
    program = _exported(tmp_path / "program.pt2")
    primary = TeacherSource(network="hrnet_w8_small", train=TrainSettings(epochs=1))
    settings = Settings(name="x", data=DataSettings(embedded=EmbeddedData()), teachers=TeachersSettings(primary=primary))
    plans = [_plan(tmp_path / str(workers), program, workers=workers) for workers in (1, 2)]
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    try:
        facts = [run_trainings(Context(settings, tmp_path, "cpu"), [plan])[0] for plan in plans]
    finally:
        ray.shutdown()
    assert [fact["workers"] for fact in facts] == [1, 2]
    alone, shared = (load_weights(local(plan.folder / WEIGHTS)).state for plan in plans)
    assert losses(local(plans[1].folder)) == pytest.approx(losses(local(plans[0].folder)), rel=1e-4)
    assert losses(local(plans[0].folder))[0] > losses(local(plans[0].folder))[-1]
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-6)
    assert alone.keys() == shared.keys()
