"""Training on the cluster: a plan goes to Ray Train's workers, and its progress comes back."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import torch

from stages.base import Context, Step
from stages.distributed.ray_storage import ray_storage
from stages.distributed.tasks import threads_of, worker_threads
from stages.progress import progress
from stages.settings import TrainSettings
from stages.training.curve import last_step
from stages.training.loop import Worker, train, training_rows
from stages.training.plan import TrainingPlan
from storage_schemas.errors import ClusterError, OdkdError, Remedy
from storage_schemas.formats.instances import read_instances

if TYPE_CHECKING:
    # It takes a second to import, which plans, predictions and targets do without.
    from ray.train import ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

__all__ = ["cpus_of_process", "run_trainings", "side_by_side"]

S = TypeVar("S", bound=Step)
_ERROR = "error.json"


def side_by_side(context: Context, steps: Sequence[S]) -> list[list[S]]:
    """The trainings ``steps`` in groups, each for ``run_trainings``.

    Without GPUs they run at the same time, each on its share of the processors: short steps do not use several threads well
    (side by side two took 136 s, and one after the other 178 s). With GPUs they run one after another, each on all of them.
    """
    # In one order for all runs: two that need the same entries must not wait for each other.
    ordered = sorted(steps, key=lambda step: step.key)
    return [ordered] if context.device == "cpu" and ordered else [[step] for step in ordered]


def run_trainings(
    context: Context, plans: Sequence[TrainingPlan], *, at_once: Sequence[TrainSettings] = ()
) -> list[dict[str, Any]]:
    """Train all ``plans`` at the same time with Ray Train; afterwards the folder of each holds its weights and its curve.

    ``at_once`` are those that run at the same time where none of them is there yet. Without GPUs the processors are shared
    among so many, also where only one is missing: the number of threads changes how sums are rounded, and so the weights.

    A lost worker is replaced up to ``cluster.max_failures`` times, and the training goes on from its last checkpoint.

    Returns:
        What is worth knowing about how each was done.

    Raises:
        ClusterError: workers were lost more often than that.
        TrainingError: the loss is not finite.
        In either case the other trainings were finished.
    """
    if not plans:
        return []
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = [_num_workers(plan.train, gpus if context.device == "cuda" else 1) for plan in plans]
    if context.device == "cuda" and sum(workers) > gpus:
        context.tell(
            f"{plans[0].title}: {sum(workers)} workers and {gpus} GPUs; it waits for more, which an autoscaler may start"
        )
    cpus = None
    if context.device == "cpu":
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cpus = cpus_of_process(nodes, max(sum(workers), sum(_num_workers(train, 1) for train in at_once)))
    trainers = [_trainer(context, plan, _scaling(number, cpus)) for plan, number in zip(plans, workers, strict=True)]
    raised: list[BaseException] = []
    from ray.train import TrainingFailedError

    def fit(trainer: TorchTrainer, plan: TrainingPlan) -> None:
        try:
            (plan.folder / _ERROR).unlink(missing_ok=True)
            try:
                trainer.fit()
            except TrainingFailedError as error:
                _raise_left(plan)
                raise _as_ours(error, plan) from error
            _raise_left(plan)
        except BaseException as error:
            raised.append(error)

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
        if raised:
            raise raised[0]
    return [_facts(plan, number, cpus) for plan, number in zip(plans, workers, strict=True)]


def _facts(plan: TrainingPlan, workers: int, cpus: float | None) -> dict[str, Any]:
    """Not in keys, and yet worth knowing: batch norm, for one, counts over the people of one worker."""
    facts = {
        "device": plan.device,
        "precision": plan.precision,
        "workers": workers,
        "people_per_worker": plan.train.batch_size // workers,
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
            # A name that was used before would silently resume that run; checkpoints are the plan's own.
            name=f"{plan.folder.parent.name}-{uuid.uuid4().hex[:8]}",
            **ray_storage(plan.folder / "ray"),
            failure_config=FailureConfig(max_failures=context.settings.cluster.max_failures),
        ),
    )


def _num_workers(settings: TrainSettings, most: int) -> int:
    if settings.workers:
        return settings.workers
    # As many as share a batch evenly, so that everybody counts the same.
    return next(workers for workers in range(max(1, most), 0, -1) if settings.batch_size % workers == 0)


def _scaling(workers: int, cpus: float | None) -> ScalingConfig:
    """``cpus`` are those of a worker that runs without a GPU."""
    from ray.train import ScalingConfig

    if cpus is None:
        return ScalingConfig(num_workers=workers, use_gpu=True)
    return ScalingConfig(num_workers=workers, use_gpu=False, resources_per_worker={"CPU": cpus})


def cpus_of_process(cpus_of_nodes: Sequence[int], processes: int) -> float:
    """CPUs of each of several training processes that are spread over nodes.

    Without GPUs one process takes all processors of a node: threads share memory and need no gradients sent. More processes
    than processors share them, where asking for whole ones would wait for ever.
    """
    usable = [cpus for cpus in cpus_of_nodes if cpus]
    if processes > sum(usable):
        return sum(usable) / processes
    # The most for which all find a place, each on one node.
    return next(cpus for cpus in range(max(usable), 0, -1) if sum(node // cpus for node in usable) >= processes)


def _worker(config: dict[str, Any]) -> None:
    """The training process that Ray Train starts."""
    plan: TrainingPlan = config["plan"]
    if (plan.folder / _ERROR).exists():
        # It has failed for a reason that a second attempt cannot mend: Ray's retries end here, and the driver tells it.
        return
    from ray.train import get_context

    place = get_context()
    worker = Worker(
        rank=place.get_world_rank(),
        world=place.get_world_size(),
        local_rank=place.get_local_rank(),
        threads=worker_threads(),
        wrap=_distributed if place.get_world_size() > 1 else Worker.wrap,
        barrier=_barrier if place.get_world_size() > 1 else Worker.barrier,
        mean=_mean if place.get_world_size() > 1 else Worker.mean,
    )
    try:
        train(plan, worker)
    except OdkdError as error:
        _leave(plan, error)
        raise
    except torch.OutOfMemoryError as error:
        _leave(plan, ClusterError(str(error).splitlines()[0], allowed="a batch_size that the GPU's memory holds"))
        raise


def _leave(plan: TrainingPlan, error: OdkdError) -> None:
    """Ray hands errors over as text: the parts are kept where the driver finds them."""
    (plan.folder / _ERROR).write_atomic(error.encode())


def _distributed(network: torch.nn.Module) -> torch.nn.Module:
    device = next(network.parameters()).device
    return torch.nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def _barrier() -> None:
    torch.distributed.barrier()


def _mean(value: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def _raise_left(plan: TrainingPlan) -> None:
    path = plan.folder / _ERROR
    if path.exists():
        error = OdkdError.decode(path.read_bytes())
        path.unlink()
        raise error


def _as_ours(error: TrainingFailedError, plan: TrainingPlan) -> Exception:
    """Lost workers and full disks are something the user can mend; what else a worker raised is a fault of the program."""
    from ray.train import ControllerError

    failures = list(getattr(error, "worker_failures", {}).values())
    # Ray Train wraps what a worker raised, too.
    raised = [getattr(failure, "_base_exc", failure) for failure in failures]
    if faults := [cause for cause in raised if isinstance(cause, OSError)]:
        return faults[0]
    if isinstance(error, ControllerError) or any(map(_is_loss, failures)):
        return ClusterError(
            f"Training '{plan.title}' lost workers: {str(error).strip().splitlines()[-1]}",
            allowed="workers that live; cluster.max_failures says how many may be lost",
            remedy=Remedy("repeat", text="it continues from its last checkpoint"),
        )
    return RuntimeError(f"Training '{plan.title}' failed: {error}")


def _is_loss(failure: Exception) -> bool:
    # Ray Train wraps what it found when it looked at the worker; the class is not public.
    return isinstance(getattr(failure, "health_check_failure", failure), ray.exceptions.RayError)


@contextlib.contextmanager
def _watch(plans: Sequence[TrainingPlan]) -> Iterator[None]:
    """Show the progress that the first worker of each training writes to its curve."""
    title = f"{plans[0].stage}: {' and '.join(plan.name for plan in plans)}"
    stop = threading.Event()
    seconds = plans[0].folder.poll_seconds
    with progress(title, total=sum(map(_steps_of, plans)), unit="steps") as bar:

        def done() -> int:
            return sum(last_step(plan.folder) for plan in plans)

        def follow() -> None:
            # With 0 it only moves the beginning on.
            note = bar.started
            while not stop.wait(seconds):
                more = max(0, done() - bar.done)
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


def _steps_of(plan: TrainingPlan) -> int:
    people = len(training_rows(read_instances(plan.instances.fetch()), plan))
    return len(plan.epochs) * max(1, people // plan.train.batch_size)
