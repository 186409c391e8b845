"""The keys of each kind in a bucket, cached for some seconds: a plan looks for thousands of missing entries."""

from __future__ import annotations

import time

from storage_schemas.paths.path import StorePath

__all__ = ["Listings"]


class Listings:
    """One list request for each kind instead of one request for each entry."""

    def __init__(self) -> None:
        self._known: dict[StorePath, tuple[float, frozenset[str]]] = {}

    def may_hold(self, folder: StorePath, key: str) -> bool:
        """False if ``folder`` had no such key some seconds ago; always True on a file system."""
        if not folder.listing_seconds:
            return True
        since, keys = self._known.get(folder, (0.0, frozenset()))
        if key in keys:
            return True
        if not since or time.monotonic() - since > folder.listing_seconds:
            keys = frozenset(path.name for path in folder.children()[0])
            self._known[folder] = time.monotonic(), keys
        return key in keys

    def forget(self, folder: StorePath) -> None:
        """List again next time: this process writes there."""
        self._known.pop(folder, None)
