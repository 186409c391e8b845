"""Nodes that die while tasks run: Ray's driver may wait for the answer of a lost host for minutes after Ray has given it up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

__all__ = ["LostNodes"]

_SECONDS_BETWEEN_LOOKS = 3.0
_IN_ORDER = (1, 4)
"""Ray's reasons for the death of a node that ended in order (EXPECTED_TERMINATION, AUTOSCALER_DRAIN_IDLE): it closed its
connections, so that Ray knows at once which tasks it had, if any, and starts these again."""


class LostNodes:
    """Tells whether a node has died since the last look, other than in order.

    If the link of a host is cut, no connection is closed. Ray declares the node dead after less than a minute, but a task that
    was sent there fails only when the operating system gives its connection up.
    """

    def __init__(self) -> None:
        self._alive = _alive(ray.nodes())
        self._looked = time.monotonic()

    def found(self) -> bool:
        """Whether a node that was alive was lost; looks at most every three seconds."""
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return False
        self._looked = time.monotonic()
        nodes = ray.nodes()
        in_order = {node["NodeID"] for node in nodes if node.get("DeathReason") in _IN_ORDER}
        before, self._alive = self._alive, _alive(nodes)
        return bool(before - self._alive - in_order)


def _alive(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    return {node["NodeID"] for node in nodes if node["Alive"]}
