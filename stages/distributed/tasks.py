"""Running many Ray tasks: how each is placed, and how results, progress and errors come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import ray
import torch

from stages.base import Context
from stages.progress import progress
from storage_schemas.errors import ClusterError, OdkdError, Remedy

__all__ = ["run_tasks", "task_options", "threads_of", "worker_threads"]

Job = TypeVar("Job")
_SECONDS_BETWEEN_LOOKS = 1.0


def task_options(context: Context, *, network: bool) -> dict[str, Any]:
    """How one task is placed; with ``network`` it runs one, on a GPU where the run is on GPUs.

    Functions that run networks are declared with ``max_calls=0``: by default Ray throws the process of a task that asks for
    a GPU away after every task, and the network with it. Lost workers are retried; files are written so that a repeated
    task does no harm.
    """
    settings = context.settings.cluster
    gpus = settings.gpus_per_task if network and context.device == "cuda" else 0
    return {
        "num_cpus": settings.cpus_per_task,
        "num_gpus": gpus,
        "max_retries": 3,
        "scheduling_strategy": "SPREAD",
    }


def worker_threads() -> int:
    """Threads that this worker process may use: the CPUs it was given, or its GPU's even share of its node's CPUs.

    A GPU is fed by many threads that decode pictures; asking Ray for their number beforehand would need to know the node.
    """
    context = ray.get_runtime_context()
    assigned = context.get_assigned_resources()
    cpus = assigned.get("CPU", 1.0)
    if gpus := assigned.get("GPU", 0.0):
        here = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        cpus = max(cpus, here.get("CPU", 0.0) * gpus / here["GPU"])
    return threads_of(cpus)


def threads_of(cpus: float) -> int:
    """Threads of a process that was given so many CPUs, which may be a part of one."""
    return max(1, int(cpus))


def run_tasks(
    function: Any,  # noqa: ANN401 (what @ray.remote makes has another type for every signature)
    jobs: Sequence[tuple[Job, int]],
    *,
    options: dict[str, Any],
    title: str,
    unit: str,
) -> Iterator[tuple[Job, Any]]:
    """Run ``function(job)`` for each of the (job, size) pairs and give (job, result) in the order in which they end.

    Raises:
        OdkdError: the error that a task raised, as it was.
        OSError: the storage fault that a task ran into, as it was.
        ClusterError: a worker was lost more often than it is retried, or ran out of memory.
    """
    remote = function.options(**options)
    running = {remote.remote(job): (job, size) for job, size in jobs}
    with progress(title, total=sum(size for _, size in jobs), unit=unit) as bar:
        try:
            while running:
                done, _ = ray.wait(list(running), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
                if not done:
                    bar.advance(0)
                    continue
                job, size = running.pop(done[0])
                yield job, _result(done[0], title)
                bar.advance(size)
        finally:
            for reference in running:
                ray.cancel(reference, force=False)


def _result(reference: ray.ObjectRef[Any], title: str) -> Any:  # noqa: ANN401 (each task has its own result)
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OdkdError | OSError):
            raise error.cause from None
        if isinstance(error.cause, torch.OutOfMemoryError):
            raise ClusterError(
                f"The GPU's memory is too small for '{title}': {str(error.cause).splitlines()[0]}",
                allowed="a smaller targets.batch_size or evaluate.batch_size",
                remedy=Remedy("repeat", text="with a smaller batch; it continues from the finished part"),
            ) from error
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        raise ClusterError(
            f"A worker of '{title}' was lost and its retries too: {str(error).splitlines()[0]}",
            allowed="workers with enough memory; a smaller targets.batch_size or evaluate.batch_size needs less",
            remedy=Remedy("repeat", text="it continues from the finished part"),
        ) from error
