"""Who else is at work on an entry: attempt folders, the lease beside each, and waiting for those whose writers live."""

from __future__ import annotations

import time
from collections.abc import Callable

from storage_schemas.paths.path import StorePath
from storage_schemas.store.lease import LeaseWatch
from storage_schemas.store.manifest import MANIFEST

__all__ = ["Attempts", "lease_of"]

_LEASE = ".lease"
"""Beside the attempt folder and written before it: in it, it would come after it, and a new folder would look abandoned."""
_POLL_SECONDS = 0.5


def lease_of(folder: StorePath) -> StorePath:
    """The lease of the writer of an attempt folder."""
    return folder.with_name(f"{folder.name}{_LEASE}")


class Attempts:
    """The attempts at one entry by other writers, and which of them are dead."""

    def __init__(self, home: StorePath) -> None:
        self._home = home
        self._watches: dict[StorePath, LeaseWatch] = {}

    def living(self) -> dict[StorePath, LeaseWatch]:
        """Those whose writers live, by folder; a folder may not be there yet."""
        folders, files = self._home.children()
        # A folder in the manifest's place, set aside or not, is nobody's attempt.
        names = {path.name for path in folders if not path.name.startswith(MANIFEST)} | {
            path.name.removesuffix(_LEASE) for path in files if path.name.endswith(_LEASE)
        }
        paths = [self._home / name for name in sorted(names)]
        self._watches = {path: self._watches.get(path) or LeaseWatch(lease_of(path)) for path in paths}
        return {path: watch for path, watch in self._watches.items() if not watch.is_dead()}

    def dead(self) -> list[StorePath]:
        """Those that ``living`` has found dead, the newest, which has adopted the most, first."""
        return [path for path, watch in reversed(self._watches.items()) if watch.is_dead()]

    def wait(self, what: str, tell: Callable[[str], None], *, is_there: Callable[[], bool]) -> None:
        """Wait until the entry ``is_there`` or none of the writers lives.

        Raises:
            RuntimeError: a writer is this very process, which would wait for itself for ever: a fault of the program.
        """
        told = False
        while not is_there() and (living := self.living()):
            if any(watch.is_own() for watch in living.values()):
                raise RuntimeError(f"{what} was begun twice by this process, which cannot wait for itself")
            if not told:
                tell(f"Waiting for {what}, which {next(iter(living.values())).holder()} is making")
                told = True
            time.sleep(_POLL_SECONDS)
