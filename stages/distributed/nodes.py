"""Nodes that do not see the files of a run, such as one that joined without a mount: their tasks go to other nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from storage_schemas.errors import StoreError
from storage_schemas.paths.path import StorePath

if TYPE_CHECKING:
    # Each worker process loads this module, and needs no settings.
    from stages.base import Context

__all__ = [
    "BlindNodeError",
    "away_from",
    "folders_of_run",
    "note_blind",
    "on_seeing_node",
    "require_seen",
    "seeing_nodes",
    "seen_here",
]

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


def folders_of_run(context: Context, images: StorePath) -> tuple[StorePath, ...]:
    """The folders that a node must see to work on ``images``: theirs, the experiment's, and the upstream home."""
    upstream = [] if context.upstream is None else [context.upstream]
    return seen_here([context.run_dir, images, *upstream])


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


def note_blind(blind: dict[str, StorePath], error: BlindNodeError) -> None:
    """Add a node to ``blind``, the nodes that do not see a folder, by id; log its address at the first time."""
    if error.node_id not in blind:
        log.warning(
            "Node %s does not see %s, which is seen here: its tasks go to other nodes", _address(error.node_id), error.path
        )
    blind[error.node_id] = error.path


def seeing_nodes(blind: Mapping[str, StorePath]) -> list[dict[str, Any]]:
    """Ray's facts about the living nodes that are not in ``blind``."""
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in blind]


def away_from(blind: Mapping[str, StorePath], resources: Mapping[str, float], *, processes: int = 1) -> dict[str, str]:
    """The label selector that keeps processes with ``resources`` away from the nodes in ``blind``; empty if there are none.

    Raises:
        StoreError: ``processes`` of them do not fit on the other nodes, and a node in ``blind`` could run one. Without the
            second condition, an autoscaler may still add the first node that can.
    """
    able = [node for node in ray.nodes() if node["Alive"] and _fitting(node, resources)]
    last = next((node for node in reversed(able) if node["NodeID"] in blind), None)
    if last and sum(_fitting(node, resources) for node in able if node["NodeID"] not in blind) < processes:
        raise StoreError(
            f"No node that could do this work sees {blind[last['NodeID']]}, which is seen here; "
            f"{last['NodeManagerAddress']} was the last one",
            allowed="folders of the home and of the images that every node sees under the same path",
        )
    return {_NODE_ID: f"!in({','.join(blind)})"} if blind else {}


def _fitting(node: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    """How many processes with ``resources`` an idle node can run at the same time."""
    # Quotients of shares, such as 2 / (2 / 3), may lie just below a whole number.
    return min(int(node["Resources"].get(name, 0.0) / amount + 1e-6) for name, amount in resources.items() if amount)


def _address(node_id: str) -> str:
    return next((str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == node_id), node_id)
