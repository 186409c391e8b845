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
from stages.distributed.nodes import BlindNodeError, away_from, folders_of_run, note_blind, require_seen, seeing_nodes
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
from storage_schemas.paths.path import StorePath

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

    A lost worker is replaced up to ``cluster.max_failures`` times, and the training resumes from its last checkpoint. On a node
    that does not see the files it ends, and starts again without that node.

    Returns:
        For each plan, the facts for its manifest that are not in the key.

    Raises:
        ClusterError: more workers were lost.
        StoreError: no node that could train sees the files.
        TrainingError: the loss is not finite.
        All are raised after all other trainings have ended.
    """
    if not plans:
        return []
    processes = max(sum(_num_workers(plan.train, 1) for plan in plans), sum(_num_workers(train, 1) for train in at_once))
    facts: dict[int, dict[str, Any]] = {}
    raised: list[BaseException] = []

    def fit(index: int, plan: TrainingPlan) -> None:
        try:
            facts[index] = _fit(context, plan, processes)
        except BaseException as error:
            raised.append(error)

    # Daemon threads, so that an interrupted run does not wait for them.
    threads = [
        threading.Thread(target=fit, args=numbered, name=f"odkd-{numbered[1].title}", daemon=True)
        for numbered in enumerate(plans)
    ]
    with _watch(plans):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]
    return [facts[index] for index in range(len(plans))]


def _fit(context: Context, plan: TrainingPlan, processes: int) -> dict[str, Any]:
    """Train one plan on nodes that see its files, and return its facts; ``processes`` share the CPUs."""
    from ray.train import ControllerError, TrainingFailedError

    sees, most = folders_of_run(context, plan.images.root), context.settings.cluster.max_failures
    failures = 0
    workers, cpus = _divided(context, plan, processes)
    (plan.folder / _ERROR).unlink(missing_ok=True)
    while True:
        needs = {"GPU": 1.0} if cpus is None else {"CPU": cpus}
        selector = away_from(context.blind_nodes, needs, processes=workers)
        try:
            _trainer(plan, sees, _scaling(workers, cpus, selector)).fit()
        except TrainingFailedError as error:
            _raise_written(plan)
            if blind := [cause for cause in _causes(error) if isinstance(cause, BlindNodeError)]:
                for node in blind:
                    note_blind(context.blind_nodes, node)
                # What was asked for may not fit on the other nodes.
                workers, cpus = _divided(context, plan, processes)
                continue
            failures += 1
            # A controller that fails can leave its CPUs reserved, for which the next attempt would wait for ever.
            if failures > most or isinstance(error, ControllerError):
                raise _translated(error, plan) from error
            context.notify(f"{plan.title}: failure {failures} of at most {most}; it continues from its last checkpoint")
        else:
            return _facts(plan, workers, cpus)


def _divided(context: Context, plan: TrainingPlan, processes: int) -> tuple[int, float | None]:
    """The number of processes of a training, and the CPUs of each (None with GPUs); says what is not a setting."""
    nodes = seeing_nodes(context.blind_nodes)
    if context.device == "cpu":
        cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
        if not any(cpus):
            context.notify(f"{plan.title}: no node has CPUs; waiting for an autoscaler to add one")
        return _num_workers(plan.train, 1), cpus_of_process(cpus, processes) or context.settings.cluster.cpus_per_task
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
    workers = _num_workers(plan.train, gpus)
    why = "as workers says" if plan.train.workers else f"for the {gpus} GPUs that the cluster has now; workers sets it"
    context.notify(f"{plan.title}: {workers} {'process' if workers == 1 else 'processes'}, {why}")
    if workers > gpus:
        context.notify(f"{plan.title}: {workers} workers, {gpus} GPUs; waiting for an autoscaler to add more")
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


def _trainer(plan: TrainingPlan, sees: tuple[StorePath, ...], scaling: ScalingConfig) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "sees": sees},
        scaling_config=scaling,
        run_config=RunConfig(
            # A unique name: Ray Train would silently resume a run of the same name. The loop writes its own checkpoints.
            name=f"{plan.folder.parent.name}-{uuid.uuid4().hex[:8]}",
            **ray_storage(plan.folder / "ray"),
            # Ray Train would start the workers again on the same nodes, even if these do not see the files.
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _num_workers(settings: TrainSettings, most: int) -> int:
    if settings.workers:
        return settings.workers
    # The most workers that divide a batch evenly, so that every instance has the same weight.
    return next(workers for workers in range(max(1, most), 0, -1) if settings.batch_size % workers == 0)


def _scaling(workers: int, cpus: float | None, selector: dict[str, str]) -> ScalingConfig:
    """``cpus`` is the number of CPUs of each worker (None for workers with a GPU), ``selector`` is of the labels of nodes."""
    from ray.train import ScalingConfig

    resources = None if cpus is None else {"CPU": cpus}
    return ScalingConfig(
        num_workers=workers, use_gpu=cpus is None, resources_per_worker=resources, label_selector=selector or None
    )  # type: ignore[call-arg] # the types are those of Train V1


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
    # Before anything else: a missing mount looks like damaged entries, and an error cannot be written to the home.
    require_seen(config["sees"])
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

    causes = _causes(error)
    if faults := [cause for cause in causes if isinstance(cause, OSError)]:
        return faults[0]
    if isinstance(error, ControllerError) or any(map(_is_loss, causes)):
        return ClusterError(
            f"Training '{plan.title}' lost workers: {str(error).strip().splitlines()[-1]}",
            allowed="at most cluster.max_failures lost workers",
            remedy=Remedy("repeat", text="it continues from its last checkpoint"),
        )
    return RuntimeError(f"Training '{plan.title}' failed: {error}")


def _causes(error: TrainingFailedError) -> list[Exception]:
    """The exceptions of the workers, which Ray Train wraps."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return [getattr(failure, "_base_exc", failure) for failure in failures.values()]


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
