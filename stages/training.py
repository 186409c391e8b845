"""Training on the cluster: a plan goes to Ray Train's workers, and its progress comes back."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from stages.context import Context
from stages.learning.loop import METRICS, Worker, train, training_rows
from stages.learning.plan import TrainingPlan
from stages.progress import progress
from stages.settings import TrainSettings
from storage_schemas.errors import ConfigError, OdkdError, TrainingError
from storage_schemas.instances import read_instances

__all__ = ["read_curve", "run_training"]

_ERROR = "error.json"


def run_training(context: Context, plan: TrainingPlan) -> None:
    """Train ``plan`` with Ray Train; afterwards its folder holds the weights and the curve.

    A lost worker is replaced up to ``cluster.max_failures`` times, and the training goes on after the last finished epoch.

    Raises:
        TrainingError: workers were lost more often than that, or the loss is not finite.
    """
    scaling = _scaling(context, plan.train)
    run_name = f"{plan.folder.parent.name}-{uuid.uuid4().hex[:8]}"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"plan": plan},
        scaling_config=scaling,
        run_config=RunConfig(
            # A name that was used before would silently resume that run; checkpoints are the plan's own.
            name=run_name,
            storage_path=str(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=context.settings.cluster.max_failures),
        ),
    )
    with _watch(plan):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _as_ours(error, plan) from error


def _scaling(context: Context, settings: TrainSettings) -> ScalingConfig:
    resources = ray.cluster_resources()
    if context.device == "cuda":
        workers = settings.workers or max(1, int(resources.get("GPU", 1)))
        return ScalingConfig(num_workers=_checked(workers, settings), use_gpu=True)
    workers = settings.workers or 1
    # Without GPUs one worker takes all processors of a node: threads of one process share memory and need no gradients sent.
    total_cpus = resources.get("CPU", 1.0)
    node_cpus = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    # More workers than processors share them, where asking for whole ones would wait for ever.
    cpus = max(1, node_cpus // workers) if workers <= total_cpus else total_cpus / workers
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
def _watch(plan: TrainingPlan) -> Iterator[None]:
    """Show the progress that the first worker writes to its curve."""
    people = len(training_rows(read_instances(plan.instances), plan))
    steps = len(plan.epochs) * max(1, people // plan.train.batch_size)
    stop = threading.Event()
    with progress(plan.title, total=steps, unit="steps") as bar:
        before = _last_step(plan.folder)
        if before:
            bar.found(before)

        def follow() -> None:
            while not stop.wait(0.5):
                bar.advance(max(0, _last_step(plan.folder) - bar.done))

        thread = threading.Thread(target=follow, name="odkd-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        bar.advance(max(0, _last_step(plan.folder) - bar.done))


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
