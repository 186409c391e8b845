"""Training with Ray Train: send plans to workers, show their progress, and translate their errors."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import torch

from stages.base import Context, Step
from stages.distributed.ray_storage import ray_storage
from stages.distributed.run_tasks import threads_of, worker_threads
from stages.progress import progress
from stages.settings import TrainSettings
from stages.training.curve import last_step, read_curve
from stages.training.loop import Worker, train
from stages.training.plan import TrainingPlan
from stages.training.rows import training_rows
from storage_schemas import errors
from storage_schemas.errors import ClusterError, OdkdError, Remedy
from storage_schemas.formats.instances import read_instances

if TYPE_CHECKING:
    # Importing Ray Train takes a second, which other commands should not pay.
    from ray.train import ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

__all__ = ["cpus_of_process", "run_trainings", "side_by_side"]

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Step)
_ERROR = "error.json"


def side_by_side(context: Context, steps: Sequence[S]) -> list[list[S]]:
    """The groups of ``steps`` to train at the same time, each group with one call of ``run_trainings``.

    Without GPUs all train at the same time, each on its share of the CPUs, because short steps use several threads badly
    (two trainings took 136 s together, and 178 s one after the other). With GPUs each trains alone, on all GPUs.
    """
    # All runs use the same order, so that two runs cannot wait for each other's entries.
    ordered = sorted(steps, key=lambda step: step.key)
    return [ordered] if context.device == "cpu" and ordered else [[step] for step in ordered]


def run_trainings(
    context: Context, plans: Sequence[TrainingPlan], *, at_once: Sequence[TrainSettings] = ()
) -> list[dict[str, Any]]:
    """Train all ``plans`` at the same time, and leave the weights and the curve of each in its folder.

    ``at_once`` are the settings of all trainings of the group, including those that are finished. Without GPUs the CPUs are
    always shared among all of them: the number of threads changes how sums are rounded, and so the weights.

    A lost worker is replaced up to ``cluster.max_failures`` times, and the training resumes from its last checkpoint.

    Returns:
        For each plan, the facts for its manifest that are not in the key.

    Raises:
        ClusterError: more workers were lost.
        TrainingError: the loss is not finite.
        Both are raised after all other trainings have ended.
    """
    if not plans:
        return []
    workers, cpus = _divided(context, plans, at_once)
    trainers = [_trainer(context, plan, _scaling(number, cpus)) for plan, number in zip(plans, workers, strict=True)]
    raised: list[BaseException] = []
    from ray.train import TrainingFailedError

    def fit(trainer: TorchTrainer, plan: TrainingPlan) -> None:
        try:
            (plan.folder / _ERROR).unlink(missing_ok=True)
            try:
                trainer.fit()
            except TrainingFailedError as error:
                _raise_written(plan)
                raise _translated(error, plan) from error
            _raise_written(plan)
        except BaseException as error:
            raised.append(error)

    # Daemon threads, so that an interrupted run does not wait for them.
    threads = [
        threading.Thread(target=fit, args=pair, name=f"odkd-{pair[1].title}", daemon=True)
        for pair in zip(trainers, plans, strict=True)
    ]
    with _watch(plans):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]
    return [_facts(plan, number, cpus) for plan, number in zip(plans, workers, strict=True)]


def _divided(
    context: Context, plans: Sequence[TrainingPlan], at_once: Sequence[TrainSettings]
) -> tuple[list[int], float | None]:
    """The number of processes of each training, and the CPUs of each process (None with GPUs); says what is not a setting."""
    if context.device == "cpu":
        workers = [_num_workers(plan.train, 1) for plan in plans]
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if not any(nodes):
            context.notify(f"{plans[0].title}: no node has CPUs; waiting for an autoscaler to add one")
        processes = max(sum(workers), sum(_num_workers(train, 1) for train in at_once))
        return workers, cpus_of_process(nodes, processes) or context.settings.cluster.cpus_per_task
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = [_num_workers(plan.train, gpus) for plan in plans]
    for plan, number in zip(plans, workers, strict=True):
        why = "as workers says" if plan.train.workers else f"for the {gpus} GPUs that the cluster has now; workers sets it"
        context.notify(f"{plan.title}: {number} {'process' if number == 1 else 'processes'}, {why}")
    if sum(workers) > gpus:
        context.notify(f"{plans[0].title}: {sum(workers)} workers, {gpus} GPUs; waiting for an autoscaler to add more")
    return workers, None


def _facts(plan: TrainingPlan, workers: int, cpus: float | None) -> dict[str, Any]:
    """What the result depends on but the key does not hold: batch norm, for example, averages over one worker's instances."""
    facts = {
        "device": plan.device,
        "precision": plan.precision,
        "workers": workers,
        "instances_per_worker": plan.train.batch_size // workers,
    }
    return facts if cpus is None else {**facts, "threads_per_worker": threads_of(cpus)}


def _trainer(context: Context, plan: TrainingPlan, scaling: ScalingConfig) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _worker,
        train_loop_config={"plan": plan},
        scaling_config=scaling,
        run_config=RunConfig(
            # A unique name: Ray Train would silently resume a run of the same name. The loop writes its own checkpoints.
            name=f"{plan.folder.parent.name}-{uuid.uuid4().hex[:8]}",
            **ray_storage(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=context.settings.cluster.max_failures),
        ),
    )


def _num_workers(settings: TrainSettings, most: int) -> int:
    if settings.workers:
        return settings.workers
    # The most workers that divide a batch evenly, so that every instance has the same weight.
    return next(workers for workers in range(max(1, most), 0, -1) if settings.batch_size % workers == 0)


def _scaling(workers: int, cpus: float | None) -> ScalingConfig:
    """``cpus`` is the number of CPUs of each worker; None for workers with a GPU."""
    from ray.train import ScalingConfig

    if cpus is None:
        return ScalingConfig(num_workers=workers, use_gpu=True)
    return ScalingConfig(num_workers=workers, use_gpu=False, resources_per_worker={"CPU": cpus})


def cpus_of_process(cpus_of_nodes: Sequence[int], processes: int) -> float:
    """The number of CPUs for each of several training processes on nodes without GPUs; 0 if no node has CPUs.

    One process gets all CPUs of a node, since threads share memory and send no gradients. More processes than CPUs get a
    fraction each, because a request for whole CPUs would wait forever.
    """
    usable = [cpus for cpus in cpus_of_nodes if cpus]
    if not usable or processes > sum(usable):
        return sum(usable) / processes
    # The most CPUs with which all processes fit, each on one node.
    return next(cpus for cpus in range(max(usable), 0, -1) if sum(node // cpus for node in usable) >= processes)


def _worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in each worker process."""
    plan: TrainingPlan = config["plan"]
    if (plan.folder / _ERROR).exists():
        # An earlier attempt failed with an error that retries cannot fix: end here, and the driver raises it.
        return
    from ray.train import get_context

    ray_context = get_context()
    worker = Worker(
        rank=ray_context.get_world_rank(),
        world=ray_context.get_world_size(),
        local_rank=ray_context.get_local_rank(),
        threads=worker_threads(),
        wrap=_distributed if ray_context.get_world_size() > 1 else Worker.wrap,
        barrier=_barrier if ray_context.get_world_size() > 1 else Worker.barrier,
        mean=_mean if ray_context.get_world_size() > 1 else Worker.mean,
    )
    try:
        train(plan, worker)
    except OdkdError as error:
        _write_error(plan, error)
        raise
    except torch.OutOfMemoryError as error:
        _write_error(plan, ClusterError(str(error).splitlines()[0], allowed="a batch_size that the GPU's memory holds"))
        raise


def _write_error(plan: TrainingPlan, error: OdkdError) -> None:
    """Write the error's fields to a file for the driver, because Ray Train passes errors on as text only."""
    fields = {"seen": error.seen, "allowed": error.allowed, "remedy": error.remedy and asdict(error.remedy)}
    (plan.folder / _ERROR).write_atomic(json.dumps({"type": type(error).__name__, **fields}).encode())


def _distributed(network: torch.nn.Module) -> torch.nn.Module:
    device = next(network.parameters()).device
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _barrier() -> None:
    torch.distributed.barrier()


def _mean(value: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def _raise_written(plan: TrainingPlan) -> None:
    path = plan.folder / _ERROR
    if path.exists():
        fields = json.loads(path.read_bytes())
        path.unlink()
        kind: type[OdkdError] = getattr(errors, fields["type"])
        raise kind(fields["seen"], allowed=fields["allowed"], remedy=fields["remedy"] and Remedy(**fields["remedy"]))


def _translated(error: TrainingFailedError, plan: TrainingPlan) -> Exception:
    """Translate an error of Ray Train: lost workers and storage errors are the user's to fix, all others are bugs."""
    from ray.train import ControllerError

    failures = list(getattr(error, "worker_failures", {}).values())
    # Ray Train wraps the exceptions of workers.
    raised = [getattr(failure, "_base_exc", failure) for failure in failures]
    if faults := [cause for cause in raised if isinstance(cause, OSError)]:
        return faults[0]
    if isinstance(error, ControllerError) or any(map(_is_loss, failures)):
        return ClusterError(
            f"Training '{plan.title}' lost workers: {str(error).strip().splitlines()[-1]}",
            allowed="at most cluster.max_failures lost workers",
            remedy=Remedy("repeat", text="it continues from its last checkpoint"),
        )
    return RuntimeError(f"Training '{plan.title}' failed: {error}")


def _is_loss(failure: Exception) -> bool:
    # Ray Train wraps the result of its health check in a class that is not public.
    return isinstance(getattr(failure, "health_check_failure", failure), ray.exceptions.RayError)


@contextlib.contextmanager
def _watch(plans: Sequence[TrainingPlan]) -> Iterator[None]:
    """Show a progress bar, from the curve that the first worker of each training writes."""
    title = f"{plans[0].stage}: {' and '.join(plan.name for plan in plans)}"
    stop = threading.Event()
    seconds = max(plans[0].folder.listing_seconds, 0.5)
    with progress(title, total=sum(map(_steps_of, plans)), unit="steps") as bar:

        def done() -> int:
            return sum(last_step(plan.folder) for plan in plans)

        def follow() -> None:
            # Before the first step, only the bar's start time is updated.
            note, said = bar.started, {plan.title: len(_scored(plan)) for plan in plans}
            while not stop.wait(seconds):
                more = max(0, done() - bar.done)
                for plan in plans:
                    for line in _scored(plan)[said[plan.title] :]:
                        said[plan.title] += 1
                        log.info("%s: AP %.3f on held-out people after epoch %d", plan.title, line["AP"], line["epoch"] + 1)
                note(more)
                note = bar.advance if more else note

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


def _scored(plan: TrainingPlan) -> list[dict[str, Any]]:
    """The epochs of a training that were scored so far."""
    return [line for line in read_curve(plan.folder) if "AP" in line] if plan.validate_every else []


def _steps_of(plan: TrainingPlan) -> int:
    return len(plan.epochs) * training_rows(read_instances(plan.instances.fetch()), plan).steps
