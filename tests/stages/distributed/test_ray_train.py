"""The CPUs of each training process, computed by hand, and trainings with several workers; whole runs are in tests/pipeline."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from torch import nn

from pipeline.cache.advice import command
from stages.base import Context
from stages.data.windows import ImageSource
from stages.distributed.ray_train import _raise_written, _write_error, cpus_of_process, run_trainings
from stages.networks.spec import NetworkSpec
from stages.settings import (
    ClusterSettings,
    DataSettings,
    EmbeddedData,
    Settings,
    TeacherSource,
    TeachersSettings,
    TrainSettings,
)
from stages.training.loop import WEIGHTS
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.schedule import Weights
from storage_schemas.errors import ClusterError, CorruptEntryError, Remedy
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.formats.targets import create_arrays, target_arrays, write_block
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels


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
def test_every_process_gets_the_most_cpus_with_which_all_fit(nodes: list[int], processes: int, cpus: float) -> None:
    assert cpus_of_process(nodes, processes) == cpus


def test_no_process_is_asked_for_without_cpus() -> None:
    """A head without CPUs, of a cluster that starts from zero: a process that asks for none would land there."""
    assert cpus_of_process([0], 1) == 0 == cpus_of_process([], 2)


@pytest.mark.parametrize("remedy", [None, Remedy("run", kind="instances", force=True, settings=("cluster.device=cpu",))])
def test_the_driver_raises_the_error_of_a_worker_with_all_its_parts(tmp_path: LocalPath, remedy: Remedy | None) -> None:
    plan = make_plan(tmp_path, on_labels(1), images=(1,))
    _raise_written(plan)
    error = CorruptEntryError("views/1 is damaged", allowed="whole files", remedy=remedy)
    _write_error(plan, error)
    with pytest.raises(CorruptEntryError) as caught:
        _raise_written(plan)
    assert (caught.value.seen, caught.value.allowed) == (error.seen, error.allowed)
    assert (caught.value.remedy and command(caught.value.remedy)) == (remedy and command(remedy))
    _raise_written(plan)


class _WithoutBatchNorm(nn.Module):
    """Heatmaps of 17 joints; batch norm would average over one worker and so depend on their number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Conv2d(8, 17, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.head(torch.relu(self.stem(image)))
        return heat


def _exported(path: LocalPath) -> LocalPath:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    image = torch.zeros(2, 3, 64, 64)
    torch.export.save(torch.export.export(_WithoutBatchNorm(), (image,), dynamic_shapes=({0: batch},)), path)
    return path


def _plan(folder: LocalPath, network: NetworkSpec, *, workers: int) -> TrainingPlan:
    folder.mkdir()
    plan = make_plan(folder, on_labels(3), images=(1, 2, 3, 4, 5, 6, 7, 8))
    train = plan.train.model_copy(update={"batch_size": 4, "workers": workers, "optimizer": "sgd", "lr": 0.01})
    return replace(plan, network=network, train=train)


@pytest.fixture
def context(tmp_path: LocalPath, warm: None) -> Context:
    """A run on the warm Ray."""
    primary = TeacherSource(network="hrnet_w8_small", train=TrainSettings(epochs=1))
    settings = Settings(name="x", data=DataSettings(embedded=EmbeddedData()), teachers=TeachersSettings(primary=primary))
    return Context(settings, tmp_path, "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("max_failures", [0, 3])
def test_a_read_error_of_one_worker_ends_the_others_and_is_raised(
    tmp_path: LocalPath, context: Context, max_failures: int
) -> None:
    """The first worker opens the bits, and the other waits for it at a barrier that would hold for half an hour."""
    bits = tmp_path / "bits-of-view-1"
    bits.mkdir()
    create_arrays(bits, target_arrays((16, 16), 17), 8)
    write_block(bits, 0, {"bits": np.zeros((8, 17 * 16 * 16 // 8), np.uint8), "peak": np.zeros((8, 17), np.float16)})
    [shard] = [path for path in (bits / "bits" / "c").rglob("*") if path.is_file()]
    shard.write_bytes(shard.read_bytes()[:-9])
    plan = _plan(tmp_path / "training", NetworkSpec(network="hrnet_w8_tiny"), workers=2)
    plan = replace(plan, epochs=[EpochPlan(view=1, weights=Weights(1.0, primary=1.0), primary=bits)])
    settings = context.settings.model_copy(update={"cluster": ClusterSettings(max_failures=max_failures)})
    failed_at: list[float] = []

    def watch() -> None:
        # Starting workers takes long on a busy machine: the clock runs from the failure.
        while not (plan.folder / "error.json").exists():
            time.sleep(0.05)
        failed_at.append(time.monotonic())

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(CorruptEntryError, match=r"Array 'bits' in .*bits-of-view-1 cannot be read"):
        run_trainings(replace(context, settings=settings), [plan])
    # Without retries it was half a second, on a machine with four times as much to do as processors; a retry starts workers.
    assert time.monotonic() - failed_at[0] < 120


_DRIVER = "ODKD_TEST_DRIVER"


class Deadly(LocalPath):
    """A folder of images; the first worker that looks at it is killed."""

    def is_filled(self) -> bool:
        if _DRIVER not in os.environ and not (self.parent / "died").exists():
            (self.parent / "died").touch()
            # A worker that dies while Ray Train starts it ends the whole training.
            time.sleep(3)
            os.kill(os.getpid(), signal.SIGKILL)
        return True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("max_failures", [0, 1])
def test_a_lost_worker_is_replaced_as_often_as_is_set(
    tmp_path: LocalPath, context: Context, max_failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(_DRIVER, "1")
    plan = make_plan(tmp_path / "training", on_labels(1))
    plan = replace(plan, images=ImageSource(Deadly(tmp_path / "training" / "images")))
    settings = context.settings.model_copy(update={"cluster": ClusterSettings(max_failures=max_failures)})
    context = replace(context, settings=settings)
    if not max_failures:
        with pytest.raises(ClusterError, match="Training 'test: small' lost workers"):
            run_trainings(context, [plan])
        return
    run_trainings(context, [plan])
    assert "test: small: failure 1 of at most 1; it continues from its last checkpoint" in caplog.messages
    assert len(losses(local(plan.folder))) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_two_workers_get_the_same_weights_as_one(tmp_path: LocalPath, context: Context) -> None:
    """Each step uses the mean gradient over the whole batch, for any number of workers; so does the logged loss."""
    network = NetworkSpec(weights=_exported(tmp_path / "program.pt2"))
    plans = [_plan(tmp_path / str(workers), network, workers=workers) for workers in (1, 2)]
    # At the same time: three processes share the CPUs.
    facts = run_trainings(context, plans)
    assert [fact["workers"] for fact in facts] == [1, 2]
    assert {fact["threads_per_worker"] for fact in facts} == {max(1, int(ray.cluster_resources()["CPU"]) // 3)}
    alone, shared = (load_weights(local(plan.folder / WEIGHTS)).state for plan in plans)
    assert losses(local(plans[1].folder)) == pytest.approx(losses(local(plans[0].folder)), rel=1e-4)
    assert losses(local(plans[0].folder))[0] > losses(local(plans[0].folder))[-1]
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-6)
    assert alone.keys() == shared.keys()
