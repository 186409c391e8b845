"""Which keys a kind has in a bucket, for some seconds: thousands of entries may be asked for that are not there."""

from __future__ import annotations

import time

from storage_schemas.paths.path import StorePath

__all__ = ["Listings"]


class Listings:
    """Answers by one list request a kind what would be a request for every entry."""

    def __init__(self) -> None:
        self._known: dict[StorePath, tuple[float, frozenset[str]]] = {}

    def may_hold(self, folder: StorePath, key: str) -> bool:
        """False if there was nothing of that key in ``folder`` some seconds ago; on file systems always True."""
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
        """Look again: something is going to be made there."""
        self._known.pop(folder, None)
