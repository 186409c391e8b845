"""Training on the cluster: a plan goes to Ray Train's workers, and its progress comes back."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from stages.context import Context, Step
from stages.learning.loop import METRICS, Worker, train, training_rows
from stages.learning.plan import TrainingPlan
from stages.progress import progress
from stages.settings import TrainSettings
from storage_schemas.errors import ConfigError, OdkdError, TrainingError
from storage_schemas.instances import read_instances

__all__ = ["read_curve", "run_trainings", "side_by_side"]

_ERROR = "error.json"


def side_by_side(context: Context, steps: Sequence[Step]) -> list[list[Step]]:
    """The trainings ``steps`` in groups, each for ``run_trainings``.

    Without GPUs they run at the same time, each on its share of the processors: short steps do not use several threads well
    (two of one thread each took 0.6 times as long as one after the other on two threads). With GPUs they run one after
    another, each on all of them.
    """
    return [list(steps)] if context.device == "cpu" and steps else [[step] for step in steps]


def run_trainings(context: Context, plans: Sequence[TrainingPlan]) -> None:
    """Train all ``plans`` at the same time with Ray Train; afterwards the folder of each holds its weights and its curve.

    A lost worker is replaced up to ``cluster.max_failures`` times, and the training goes on after the last finished epoch.

    Raises:
        TrainingError: workers were lost more often than that, or the loss is not finite; the other trainings were finished.
    """
    if not plans:
        return
    trainers = [_trainer(context, plan, beside=len(plans)) for plan in plans]
    errors: list[BaseException] = []

    def fit(trainer: TorchTrainer, plan: TrainingPlan) -> None:
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            errors.append(_as_ours(error, plan))
        except BaseException as error:
            errors.append(error)

    # Daemons, so that an interrupted run ends without them.
    threads = [
        threading.Thread(target=fit, args=pair, name=f"odkd-{pair[1].title}", daemon=True)
        for pair in zip(trainers, plans, strict=True)
    ]
    with _watch(plans):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _trainer(context: Context, plan: TrainingPlan, *, beside: int) -> TorchTrainer:
    return TorchTrainer(
        _worker,
        train_loop_config={"plan": plan},
        scaling_config=_scaling(context, plan.train, beside),
        run_config=RunConfig(
            # A name that was used before would silently resume that run; checkpoints are the plan's own.
            name=f"{plan.folder.parent.name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=context.settings.cluster.max_failures),
        ),
    )


def _scaling(context: Context, settings: TrainSettings, beside: int) -> ScalingConfig:
    resources = ray.cluster_resources()
    if context.device == "cuda":
        workers = settings.workers or max(1, int(resources.get("GPU", 1)))
        return ScalingConfig(num_workers=_checked(workers, settings), use_gpu=True)
    workers = settings.workers or 1
    # Without GPUs one worker takes all processors of a node: threads of one process share memory and need no gradients sent.
    total_cpus = resources.get("CPU", 1.0)
    node_cpus = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    processes = workers * beside
    # More processes than processors share them, where asking for whole ones would wait for ever.
    cpus = max(1, node_cpus // processes) if processes <= total_cpus else total_cpus / processes
    return ScalingConfig(num_workers=_checked(workers, settings), use_gpu=False, resources_per_worker={"CPU": cpus})


def _checked(workers: int, settings: TrainSettings) -> int:
    if settings.batch_size % workers:
        raise ConfigError(
            f"batch_size {settings.batch_size} cannot be shared evenly by {workers} workers",
            allowed=f"a multiple of {workers}, so that every worker counts the same",
        )
    return workers


def _worker(config: dict[str, Any]) -> None:
    """The training process that Ray Train starts."""
    plan: TrainingPlan = config["plan"]
    place = ray.train.get_context()
    assigned = ray.get_runtime_context().get_assigned_resources()
    worker = Worker(
        rank=place.get_world_rank(),
        world=place.get_world_size(),
        local_rank=place.get_local_rank(),
        threads=max(1, int(assigned.get("CPU", 1))),
        wrap=_distributed if place.get_world_size() > 1 else Worker.wrap,
        barrier=_barrier if place.get_world_size() > 1 else Worker.barrier,
    )
    try:
        train(plan, worker)
    except OdkdError as error:
        # Ray hands errors over as text: the parts are kept where the driver finds them.
        (plan.folder / _ERROR).write_text(json.dumps([type(error).__name__, error.seen, error.allowed, error.run]))
        raise


def _distributed(network: torch.nn.Module) -> torch.nn.Module:
    device = next(network.parameters()).device
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _barrier() -> None:
    torch.distributed.barrier()


def _as_ours(error: Exception, plan: TrainingPlan) -> OdkdError:
    kept = plan.folder / _ERROR
    if kept.exists():
        _, seen, allowed, run = json.loads(kept.read_text())
        kept.unlink()
        return TrainingError(seen, allowed=allowed, run=run)
    return TrainingError(
        f"Training '{plan.title}' failed: {str(error).strip().splitlines()[-1]}",
        allowed="workers that live; cluster.max_failures says how many may be lost",
        run="the same command: it goes on after the last finished epoch",
    )


@contextlib.contextmanager
def _watch(plans: Sequence[TrainingPlan]) -> Iterator[None]:
    """Show the progress that the first worker of each training writes to its curve."""
    title = " and ".join([plans[0].title, *(plan.title.partition(": ")[2] for plan in plans[1:])])
    stop = threading.Event()
    with progress(title, total=sum(map(_steps_of, plans)), unit="steps") as bar:

        def done() -> int:
            return sum(_last_step(plan.folder) for plan in plans)

        def follow() -> None:
            while not stop.wait(0.5):
                bar.advance(max(0, done() - bar.done))

        before = done()
        if before:
            bar.found(before)
        thread = threading.Thread(target=follow, name="odkd-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        bar.advance(max(0, done() - bar.done))


def _steps_of(plan: TrainingPlan) -> int:
    people = len(training_rows(read_instances(plan.instances), plan))
    return len(plan.epochs) * max(1, people // plan.train.batch_size)


def _last_step(folder: Path) -> int:
    lines = _lines(folder)
    return int(lines[-1]["step"]) if lines else 0


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        # The worker may be writing the last line just now.
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The finished epochs of a curve: epoch, step, loss, lr, seconds."""
    return [line for line in _lines(folder) if "loss" in line]
