"""The teachers' bits that each epoch reads, as memory maps: the next epoch's are decoded while this one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stages.settings import Role
from stages.training.memory_map import MappedArray
from stages.training.plan import EpochPlan
from storage_schemas.paths.node_cache import Folder, here

__all__ = ["TeacherMaps"]


class TeacherMaps:
    """The maps of one worker: the first of each node decodes, the others open what it has left."""

    def __init__(self, epochs: Sequence[EpochPlan], *, decodes: bool, barrier: Callable[[], None]) -> None:
        self._epochs, self._decodes, self._barrier = epochs, decodes, barrier
        self._maps: dict[Folder, Future[MappedArray]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="odkd-maps")

    def of_epoch(self, epoch: int) -> Mapping[Role, MappedArray]:
        """The bits of ``epoch``, by role; those of other epochs are given back, and those of the next begun.

        All workers must ask for the same epochs.

        Raises:
            CorruptEntryError: an array cannot be read.
            StoreError: there is no room for a map.
        """
        wanted = self._folders(epoch)
        ahead = self._folders(epoch + 1) if self._decodes and epoch + 1 < len(self._epochs) else {}
        self._drop(keep={*wanted.values(), *ahead.values()})
        if self._decodes:
            self._open(wanted)
        self._barrier()
        if not self._decodes:
            self._open(wanted)
        # Nobody may give a map back before all have opened it: the last to close it removes the file.
        self._barrier()
        for folder in ahead.values():
            self._begin(folder)
        return {role: self._maps[folder].result() for role, folder in wanted.items()}

    def close(self) -> None:
        """Give all maps back."""
        self._drop(keep=set())
        self._pool.shutdown()

    def _folders(self, epoch: int) -> dict[Role, Folder]:
        plan = self._epochs[epoch]
        sources: tuple[tuple[Role, Folder | None, float], ...] = (
            ("primary", plan.primary, plan.weights.primary),
            ("senior", plan.senior, plan.weights.senior),
        )
        return {role: folder for role, folder, weight in sources if weight and folder}

    def _open(self, wanted: Mapping[Role, Folder]) -> None:
        for folder in wanted.values():
            self._begin(folder)
        for folder in wanted.values():
            self._maps[folder].result()

    def _begin(self, folder: Folder) -> None:
        known = self._maps.get(folder)
        # One that failed is begun again: there may be room now that the epoch before has given its own back.
        if known is None or (known.done() and known.exception() is not None):
            self._maps[folder] = self._pool.submit(_opened, folder)

    def _drop(self, *, keep: set[Folder]) -> None:
        for folder in [folder for folder in self._maps if folder not in keep]:
            future = self._maps.pop(folder)
            # One that has failed has nothing to give back; who needs it is told when it is asked for.
            if future.exception() is None:
                future.result().close()


def _opened(folder: Folder) -> MappedArray:
    return MappedArray(here(folder), "bits")
