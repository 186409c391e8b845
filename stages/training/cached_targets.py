"""The teachers' bits of each epoch as memory maps; the maps of the next epoch are decoded during the current one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stages.settings import Role
from stages.training.memory_map import MappedArray
from stages.training.plan import EpochPlan
from storage_schemas.paths.path import Folder

__all__ = ["CachedTargets"]


class CachedTargets:
    """The maps of one worker. The first worker of each node decodes them; the other workers open the same files."""

    def __init__(self, epochs: Sequence[EpochPlan], *, decodes: bool, barrier: Callable[[], None]) -> None:
        self._epochs, self._decodes, self._barrier = epochs, decodes, barrier
        self._maps: dict[Folder, Future[MappedArray]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="odkd-maps")

    def of_epoch(self, epoch: int) -> Mapping[Role, MappedArray]:
        """The bits of ``epoch``, by role. Starts to decode the next epoch, and closes the maps of all others.

        All workers must ask for the same epochs in the same order.

        Raises:
            CorruptEntryError: an array cannot be read.
            StoreError: there is no room for a map.
        """
        wanted = self._epochs[epoch].targets()
        ahead = self._epochs[epoch + 1].targets() if self._decodes and epoch + 1 < len(self._epochs) else {}
        self._drop(keep={*wanted.values(), *ahead.values()})
        if self._decodes:
            self._open(wanted)
        self._barrier()
        if not self._decodes:
            self._open(wanted)
        # The last process to close a map deletes its file, so all must open it before one closes it.
        self._barrier()
        for folder in ahead.values():
            self._begin(folder)
        return {role: self._maps[folder].result() for role, folder in wanted.items()}

    def close(self) -> None:
        """Close all maps."""
        self._drop(keep=set())
        self._pool.shutdown()

    def _open(self, wanted: Mapping[Role, Folder]) -> None:
        for folder in wanted.values():
            self._begin(folder)
        for folder in wanted.values():
            self._maps[folder].result()

    def _begin(self, folder: Folder) -> None:
        known = self._maps.get(folder)
        # Retry after a failure: there may be room now, since the maps of the epoch before are closed.
        if known is None or (known.done() and known.exception() is not None):
            self._maps[folder] = self._pool.submit(_opened, folder)

    def _drop(self, *, keep: set[Folder]) -> None:
        for folder in [folder for folder in self._maps if folder not in keep]:
            future = self._maps.pop(folder)
            # A map that failed to open needs no closing; its error is raised in the epoch that reads it.
            if future.exception() is None:
                future.result().close()


def _opened(folder: Folder) -> MappedArray:
    return MappedArray(folder.fetch(), "bits")
