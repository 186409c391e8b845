"""Nodes that die while tasks run: Ray's driver may wait for the answer of a lost host for minutes after Ray has given it up."""

from __future__ import annotations

import time

import ray

__all__ = ["LostNodes"]

_SECONDS_BETWEEN_LOOKS = 3.0


class LostNodes:
    """Tells whether a node has died since the last look.

    If the link of a host is cut, no connection is closed. Ray declares the node dead after less than a minute, but a task that
    was sent there fails only when the operating system gives its connection up.
    """

    def __init__(self) -> None:
        self._alive = self._now_alive()
        self._looked = time.monotonic()

    def found(self) -> bool:
        """Whether a node that was alive no longer is; looks at most every three seconds."""
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return False
        self._looked = time.monotonic()
        before, self._alive = self._alive, self._now_alive()
        return bool(before - self._alive)

    @staticmethod
    def _now_alive() -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
