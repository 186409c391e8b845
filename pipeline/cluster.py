"""Connecting to Ray, and looking before running: which device there is, and whether every node can use the home."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stages.context import Device
from stages.settings import ClusterSettings
from storage_schemas.errors import ClusterError, StoreError

__all__ = ["check_home", "connect", "device", "disconnect"]

log = logging.getLogger(__name__)

# Ray Train's controller looks at its workers every two seconds by default: short trainings would mostly wait for it.
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
_OBJECT_STORE_BYTES = 256 << 20
"""Tasks return paths and figures, never arrays of pictures: a small store is enough, and fits a container's /dev/shm."""


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names (a Ray job has it set), or start a local one that ends with this process.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Cannot reach Ray at '{address or 'local'}': {error}",
            allowed="RAY_ADDRESS unset (a local cluster), or the address of a running one with its token (RAY_AUTH_MODE=token)",
            run="ray status",
        ) from error


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def device(settings: ClusterSettings) -> Device:
    """What networks run on: as configured, or a GPU if the cluster (or this machine, where there is none yet) has one."""
    if settings.device != "auto":
        return settings.device
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        connect()
        return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_home(home: Path) -> None:
    """Make sure that every node can write the home and sees what the driver wrote there.

    Raises:
        StoreError: a node cannot; the message names it.
    """
    probe = home / f".probe-{uuid.uuid4().hex[:8]}"
    probe.mkdir(parents=True)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        tasks = [
            _probe_home.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), num_cpus=0
            ).remote(str(probe), node["NodeID"])
            for node in nodes
        ]
        for node, trouble in zip(nodes, ray.get(tasks), strict=True):
            if trouble:
                raise StoreError(
                    f"Node {node['NodeManagerAddress']} cannot use the home {home}: {trouble}",
                    allowed="a folder that every node of the cluster can write, such as one on NFS",
                    run="repeat the command with --home /shared/folder",
                )
        seen = {path.name for path in probe.iterdir()}
        lost = [node for node in nodes if node["NodeID"] not in seen]
        if lost:
            raise StoreError(
                f"What node {lost[0]['NodeManagerAddress']} writes to {home} is not seen here: the home is not shared",
                allowed="a folder that every node of the cluster sees, such as one on NFS",
                run="repeat the command with --home /shared/folder",
            )
    finally:
        for path in probe.iterdir():
            path.unlink()
        probe.rmdir()


@ray.remote
def _probe_home(folder: str, name: str) -> str:
    """Write a file into ``folder`` from this node; why it failed, or ''."""
    if not Path(folder).is_dir():
        return "the folder is not there"
    try:
        (Path(folder) / name).write_bytes(b"")
    except OSError as error:
        return str(error)
    return ""
