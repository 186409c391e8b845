"""Running many Ray tasks: their resources, and how results, progress and errors come back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
import torch

from stages.base import Context
from stages.distributed.lost_nodes import LostNodes
from stages.distributed.nodes import BlindNodeError, away_from, folders_of_run, note_blind, on_seeing_node
from stages.progress import progress
from storage_schemas.errors import ClusterError, OdkdError, Remedy
from storage_schemas.paths.path import StorePath

__all__ = ["Crashes", "TaskOptions", "run_tasks", "task_options", "threads_of", "worker_threads"]

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")
_RETRIES = 3
_RETRIES_OF_PIECES = 1
"""Fewer where a lost job is divided: its pieces are retried too."""

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_A_CANCELLED_COPY = 10.0
_LOST = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The resources of one task."""

    cpus: float
    gpus: float
    sees: tuple[StorePath, ...] = ()
    """Folders that a node must see to be given tasks."""
    blind: dict[str, StorePath] = field(default_factory=dict)
    """The nodes that are known not to see a folder, by id; ``run_tasks`` adds those that it finds."""


@dataclass(eq=False)
class _Task(Generic[Job]):
    """A job with its size, and the copies of it that were started."""

    job: Job
    size: int
    references: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Crashes(Generic[Job, Result]):
    """What to do with a job that ends the process of its worker twice.

    ``pieces`` divides it into smaller jobs, each with its size, so that the fault is found; one that cannot be divided has no
    pieces, and ``blame`` is its result.
    """

    pieces: Callable[[Job], Sequence[tuple[Job, int]]]
    blame: Callable[[Job], Result]


def task_options(context: Context, images: StorePath, *, network: bool) -> TaskOptions:
    """The resources of one task on ``images``; a task that runs a ``network`` gets a GPU if the run uses GPUs."""
    settings = context.settings.cluster
    return TaskOptions(
        cpus=settings.cpus_per_task,
        gpus=settings.gpus_per_task if network and context.device == "cuda" else 0,
        sees=folders_of_run(context, images),
        blind=context.blind_nodes,
    )


def worker_threads() -> int:
    """The number of threads that this worker process may use: its CPUs, or its GPU's even share of the node's CPUs.

    A GPU needs many threads that decode images. Only the worker knows its node, so it computes the number itself.
    """
    context = ray.get_runtime_context()
    assigned = context.get_assigned_resources()
    cpus = assigned.get("CPU", 1.0)
    if gpus := assigned.get("GPU", 0.0):
        node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        cpus = max(cpus, node.get("CPU", 0.0) * gpus / node["GPU"])
    return threads_of(cpus)


def threads_of(cpus: float) -> int:
    """The number of threads for ``cpus`` CPUs, which can be a fraction of one."""
    return max(1, int(cpus))


def run_tasks(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[Job, int]],
    *,
    options: TaskOptions,
    title: str,
    unit: str,
    on_crash: Crashes[Job, Result] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Run ``function(job)`` as a Ray task for each of the (job, size) pairs, and yield (job, result) as the tasks end.

    ``function`` must be importable on the workers. Lost workers are retried: a repeated task must write the same files. With
    ``on_crash`` a job that goes on losing its worker is divided, and loses no other job. A node that does not see the folders
    of ``options`` gives its tasks to others.

    Raises:
        OdkdError: raised by a task, and passed on unchanged.
        OSError: a storage error in a task, passed on unchanged.
        ClusterError: a worker was lost more often than it is retried, or ran out of memory.
    """
    tasks, lost = _Tasks(function, options, title=title, unit=unit, on_crash=on_crash), LostNodes()
    for job, size in jobs:
        tasks.start(_Task(job, size))
    with progress(title, total=sum(size for _, size in jobs), unit=unit) as bar:
        try:
            while tasks.running:
                done, _ = ray.wait(list(tasks.running), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
                if lost.found():
                    tasks.start_copies()
                ended = tasks.take(done[0]) if done else None
                if ended is None:
                    bar.advance(0)
                    continue
                task, result = ended
                yield task.job, result
                bar.advance(task.size)
            tasks.await_cancelled()
        finally:
            for reference in tasks.running:
                ray.cancel(reference, force=False)


class _Tasks(Generic[Job, Result]):
    """The tasks of one ``run_tasks`` that have not ended, by Ray's references."""

    def __init__(
        self,
        function: Callable[[Job], Result],
        options: TaskOptions,
        *,
        title: str,
        unit: str,
        on_crash: Crashes[Job, Result] | None,
    ) -> None:
        self.running: dict[Any, _Task[Job]] = {}
        self._cancelled: list[Any] = []
        self._function, self._options, self._title, self._unit, self._on_crash = function, options, title, unit, on_crash
        # Without max_calls=0, Ray ends the process of a GPU task after every task, and the loaded network with it.
        self._remote: Any = ray.remote(
            max_calls=0,
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_retries=_RETRIES_OF_PIECES if on_crash else _RETRIES,
            scheduling_strategy="SPREAD",
        )(on_seeing_node)
        self._selector = self._away_from_blind()

    def start(self, task: _Task[Job]) -> None:
        """Start a task, or one more copy of it, on a node that is not known to be blind."""
        reference = self._remote.options(label_selector=self._selector).remote(self._function, self._options.sees, task.job)
        task.references.append(reference)
        self.running[reference] = task

    def _away_from_blind(self) -> dict[str, str]:
        return away_from(self._options.blind, {"CPU": self._options.cpus, "GPU": self._options.gpus})

    def start_copies(self) -> None:
        """Start a copy of each task: any of them may have been sent to a node that was lost. The first that ends counts.

        Ray does not tell which tasks wait for a node. Their copies wait behind them, and are cancelled before they begin.
        """
        log.warning("'%s': a node was lost; its tasks are started on other nodes", self._title)
        for task in list(dict.fromkeys(self.running.values())):
            self.start(task)

    def take(self, reference: ray.ObjectRef[Result]) -> tuple[_Task[Job], Result] | None:
        """The task of a reference that has ended, with its result; None if a copy of it goes on, or its pieces."""
        task = self.running.pop(reference)
        try:
            result = _result(reference, self._title)
        except BlindNodeError as error:
            note_blind(self._options.blind, error)
            self._selector = self._away_from_blind()
            self.start(task)
            return None
        except ClusterError as error:
            if self._copies(task):
                return None
            if self._on_crash is None or not isinstance(error.__cause__, _LOST):
                raise
            if pieces := self._on_crash.pieces(task.job):
                self._divide(task, pieces)
                return None
            if isinstance(error.__cause__, ray.exceptions.NodeDiedError):
                raise
            result = self._on_crash.blame(task.job)
        for copy in self._copies(task):
            ray.cancel(copy, force=False)
            del self.running[copy]
            self._cancelled.append(copy)
        return task, result

    def await_cancelled(self) -> None:
        """Wait until no cancelled copy writes any more, since all copies of a task write files of the same names.

        Names of their own would need a choice between complete sets of files at the end, and the files moved. A copy on a lost
        host never answers, so the wait is short.
        """
        if self._cancelled:
            ray.wait(self._cancelled, num_returns=len(self._cancelled), timeout=_SECONDS_OF_A_CANCELLED_COPY, fetch_local=False)

    def _copies(self, task: _Task[Job]) -> list[Any]:
        return [reference for reference in task.references if reference in self.running]

    def _divide(self, task: _Task[Job], pieces: Sequence[tuple[Job, int]]) -> None:
        lost = "'%s' lost a worker, and its retry too: %d %s are tried in pieces"
        log.warning(lost, self._title, task.size, self._unit)
        for piece, size in pieces:
            self.start(_Task(piece, size))


def _result(reference: ray.ObjectRef[Result], title: str) -> Result:
    try:
        result: Result = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OdkdError | OSError | BlindNodeError):
            raise error.cause from None
        if isinstance(error.cause, torch.OutOfMemoryError):
            raise ClusterError(
                f"The GPU memory is too small for '{title}': {str(error.cause).splitlines()[0]}",
                allowed="a smaller targets.batch_size or evaluate.batch_size",
                remedy=Remedy("repeat", text="with a smaller batch; it continues from the finished tasks"),
            ) from error
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        raise ClusterError(
            f"'{title}' lost a worker, and all its retries failed: {str(error).splitlines()[0]}",
            allowed="workers with enough memory; a smaller targets.batch_size or evaluate.batch_size needs less",
            remedy=Remedy("repeat", text="it continues from the finished tasks"),
        ) from error
    return result
