"""Nodes that do not see the files of a run, such as one that joined without a mount: their tasks go to other nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import ray

from storage_schemas.errors import StoreError
from storage_schemas.paths.path import StorePath

__all__ = ["BlindNodeError", "BlindNodes", "on_seeing_node", "require_seen", "seen_here"]

_NODE_ID = "ray.io/node-id"
"""The label with which Ray marks each node."""

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


class BlindNodeError(Exception):
    """This node does not see a folder that the driver sees. No task of it can tell a missing file from a missing mount."""

    def __init__(self, node_id: str, path: StorePath) -> None:
        super().__init__(node_id, path)
        self.node_id, self.path = node_id, path


def seen_here(folders: Sequence[StorePath]) -> tuple[StorePath, ...]:
    """Those of ``folders`` that hold something here, in the driver, and so must do so on every node."""
    return tuple(folder for folder in folders if folder.is_filled())


@lru_cache(maxsize=64)
def require_seen(folders: tuple[StorePath, ...]) -> None:
    """Look once in each worker process whether this node sees all of ``folders``; raises ``BlindNodeError`` if not."""
    for folder in folders:
        try:
            seen = folder.is_filled()
        except OSError:
            # A mount without permission, or one whose server does not answer.
            seen = False
        if not seen:
            raise BlindNodeError(ray.get_runtime_context().get_node_id(), folder)


def on_seeing_node(function: Callable[[Job], Result], sees: tuple[StorePath, ...], job: Job) -> Result:
    """The Ray task of ``run_tasks``: first look at the node, since a task cannot tell a missing file from a missing mount.

    It is here because each worker process loads this module: that of ``run_tasks`` loads torch, which takes two seconds.
    """
    require_seen(sees)
    return function(job)


class BlindNodes:
    """The nodes that were found not to see a folder."""

    def __init__(self) -> None:
        self._found: dict[str, StorePath] = {}

    def add(self, error: BlindNodeError) -> dict[str, str]:
        """Note a node, and return the label selector that keeps a task away from all that are noted.

        Raises:
            StoreError: no other node is left.
        """
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        where = addresses.get(error.node_id, error.node_id)
        if error.node_id not in self._found:
            log.warning("Node %s does not see %s, which is seen here: its tasks go to other nodes", where, error.path)
        self._found[error.node_id] = error.path
        if not self._able():
            raise StoreError(
                f"No node that could do this work sees {error.path}, which is seen here; {where} was the last one",
                allowed="folders of the home and of the images that every node sees under the same path",
            )
        return {_NODE_ID: f"!in({','.join(self._found)})"}

    def _able(self) -> list[str]:
        """The living nodes with CPUs that are not noted."""
        return [
            node["NodeID"]
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] not in self._found
        ]
