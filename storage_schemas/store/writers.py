"""The writers of one entry: their folders, the lease beside each folder, and waiting for live writers."""

from __future__ import annotations

import time
from collections.abc import Callable

from storage_schemas.paths.path import StorePath
from storage_schemas.store.lease import LeaseWatch
from storage_schemas.store.manifest import MANIFEST

__all__ = ["Writers", "lease_of"]

_LEASE = ".lease"
"""The lease lies beside the writer's folder and is written first: a folder without a lease would look abandoned."""
_POLL_SECONDS = 0.5


def lease_of(folder: StorePath) -> StorePath:
    """The lease of a writer's folder."""
    return folder.with_name(f"{folder.name}{_LEASE}")


class Writers:
    """All other writers of one entry, alive and dead."""

    def __init__(self, entry_folder: StorePath) -> None:
        self._entry_folder = entry_folder
        self._watches: dict[StorePath, LeaseWatch] = {}

    def living(self) -> dict[StorePath, LeaseWatch]:
        """The live writers by folder; a folder may not exist yet."""
        folders, files = self._entry_folder.children()
        # A folder in place of the manifest, set aside or not, belongs to no writer.
        names = {path.name for path in folders if not path.name.startswith(MANIFEST)} | {
            path.name.removesuffix(_LEASE) for path in files if path.name.endswith(_LEASE)
        }
        paths = [self._entry_folder / name for name in sorted(names)]
        self._watches = {path: self._watches.get(path) or LeaseWatch(lease_of(path)) for path in paths}
        return {path: watch for path, watch in self._watches.items() if not watch.is_dead()}

    def dead(self) -> list[StorePath]:
        """The folders that ``living`` found dead; the newest comes first, since it has adopted the most parts."""
        return [path for path, watch in reversed(self._watches.items()) if watch.is_dead()]

    def wait(self, entry_id: str, notify: Callable[[str], None], *, is_there: Callable[[], bool]) -> None:
        """Wait until the entry exists or no writer lives.

        Raises:
            RuntimeError: this process is one of the writers and would wait for itself, which is a bug.
        """
        has_notified = False
        while not is_there() and (living := self.living()):
            if any(watch.is_own() for watch in living.values()):
                raise RuntimeError(f"{entry_id} was begun twice by this process, which cannot wait for itself")
            if not has_notified:
                notify(f"Waiting for {entry_id}, which {next(iter(living.values())).holder()} is making")
                has_notified = True
            time.sleep(_POLL_SECONDS)
