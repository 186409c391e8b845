"""Connect to Ray and check it before a run: the device, whether tasks fit a node, and the home on every node."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cli import own_term_handler
from stages.base import Context, Device
from stages.settings import ClusterSettings
from storage_schemas.errors import ClusterError, OdkdError, Remedy, StoreError
from storage_schemas.paths.path import StorePath

__all__ = ["check_home", "check_resources", "connect", "device", "disconnect", "join"]

log = logging.getLogger(__name__)

# Ray Train's controller looks at its workers every two seconds by default: short trainings would mostly wait for it.
_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
# Nothing preempts a local machine: one process less for each training, which takes seconds to start.
_TRAIN_ENVIRONMENT_HERE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_OBJECT_STORE_BYTES = 256 << 20
"""Tasks return paths and figures, never images: a small store is enough, and fits the /dev/shm of a container."""

_SHORT_FOLDER = "/tmp"
# A socket's path has at most 107 bytes. Below its folder Ray writes
# /ray/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store, which is 68.
_MOST_FOLDER_BYTES = 39

_TOKEN_COMMANDS = "export RAY_AUTH_MODE=token; ray get-auth-token --generate > /dev/null; chmod 600 ~/.ray/auth_token"
Resources = Mapping[str, float]
"""The resources of a node by Ray's names: ``CPU``, ``GPU``."""


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names (a Ray job has it set), or start a local one that ends with this process.

    Raises:
        ClusterError: the cluster cannot be reached, or asks for a token that is missing.
    """
    if ray.is_initialized():
        return
    address = _address()
    for name, value in (_TRAIN_ENVIRONMENT if address else _TRAIN_ENVIRONMENT | _TRAIN_ENVIRONMENT_HERE).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Several tasks can fail for one reason: it is said once, and not again with a traceback for each of the others.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    try:
        # Ray's own handler prints the stack of each thread and ends the process before it can report what is finished.
        with own_term_handler():
            _init(address)
    except AuthenticationError as error:
        raise ClusterError(
            f"Ray at '{address or 'local'}' asks for a token: {error.message}",
            allowed="the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN, copied from where the cluster is",
            remedy=Remedy("shell", text=_TOKEN_COMMANDS),
        ) from error
    except Exception as error:
        # Ray raises a plain Exception if its processes start too slowly.
        if not address:
            raise ClusterError(
                f"Ray cannot be started on this machine: {error}",
                allowed="a machine with memory to spare and room in /tmp, and not so busy that Ray's processes start in time",
            ) from error
        raise ClusterError(
            f"Cannot reach Ray at '{address}': {error}",
            allowed="RAY_ADDRESS unset (a local cluster), or the address of a running one with its token (RAY_AUTH_MODE=token)",
            remedy=Remedy("shell", text="ray status"),
        ) from error
    where = f"joined {address}," if address else "local cluster with"
    log.info("Ray: %s %d CPUs and %d GPUs", where, *(ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU")))


def join(context: Context) -> None:
    """Connect, and check the device, the resources and the homes of a run."""
    connect()
    check_resources(context.settings.cluster, context.device)
    check_home(context.home, context.upstream)


def _init(address: str) -> None:
    if address:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            _temp_dir=_short_folder(),
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )


def _short_folder() -> str | None:
    """The folder for Ray's sockets; None for its own choice. Batch systems give each job a long TMPDIR.

    Raises:
        ClusterError: RAY_TMPDIR is too long: a user who sets it wants Ray there.
    """
    chosen, folder = os.environ.get("RAY_TMPDIR"), os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "")
    if len(os.fsencode(folder)) <= _MOST_FOLDER_BYTES:
        return None
    if chosen:
        raise ClusterError(
            f"RAY_TMPDIR is {chosen}, {len(os.fsencode(chosen))} bytes long: the paths of Ray's sockets would be too long",
            allowed=f"at most {_MOST_FOLDER_BYTES} bytes",
            remedy=Remedy("shell", text=f"export RAY_TMPDIR={_SHORT_FOLDER}"),
        )
    log.info("Ray: its files go to %s/ray, because TMPDIR (%s) is too long for the paths of its sockets", _SHORT_FOLDER, folder)
    return f"{_SHORT_FOLDER}/ray"


def _address() -> str:
    """The address of the cluster to join; empty if a local one is started."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def device(settings: ClusterSettings) -> Device:
    """The device of networks: as configured, or with ``auto`` a GPU if the cluster (or else this machine) has one.

    Raises:
        ClusterError: a GPU is required, and this machine, which would be the cluster, has none that torch can use.
    """
    if settings.device == "cpu":
        return "cpu"
    if ray.is_initialized() or _address():
        if settings.device == "cuda":
            return "cuda"
        connect()
        return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ClusterError(
            "cluster.device is cuda, and this machine has no GPU that torch can use",
            allowed="cpu or auto here; cuda with RAY_ADDRESS naming a cluster that has GPUs, or starts them",
            remedy=Remedy("repeat", settings=("cluster.device=auto",)),
        )
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_resources(settings: ClusterSettings, device: Device) -> None:
    """Check that a task fits some node, because Ray would wait in silence; warn if a cluster may still grow.

    Raises:
        ClusterError: no task fits, and the cluster is this machine.
    """
    lacking = _lacking(settings, device, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if lacking and not _address():
        raise ClusterError(
            lacking,
            allowed="what this machine has, or RAY_ADDRESS naming a cluster that has more",
            remedy=Remedy(
                "repeat", settings=("cluster.cpus_per_task=1", *(["cluster.device=auto"] if device == "cuda" else []))
            ),
        )
    if lacking:
        log.warning("%s: waiting for one to join, which an autoscaler may start", lacking)


def _lacking(settings: ClusterSettings, device: Device, nodes: Sequence[Resources]) -> str:
    """What a task needs and no node has, as text; empty if a task fits a node."""
    # A process that trains takes a whole GPU, whatever a task takes.
    needed: Resources = {"CPU": settings.cpus_per_task, "GPU": 1 if device == "cuda" else 0}
    if any(all(node.get(kind, 0) >= amount for kind, amount in needed.items()) for node in nodes):
        return ""
    existing = "; ".join(_resources_text(node) for node in nodes)
    return f"No node has {_resources_text(needed)} (cluster.cpus_per_task, cluster.device), but: {existing}"


def _resources_text(resources: Resources) -> str:
    cpus, gpus = (int(resources.get(kind, 0)) for kind in ("CPU", "GPU"))
    return f"CPU {cpus}" + (f", GPU {gpus}" if gpus else "")


def check_home(home: StorePath, upstream: StorePath | None = None) -> None:
    """Check that every node can write the home, sees the driver's files and creates a file only once, and sees ``upstream``.

    Raises:
        StoreError: a node cannot; ``seen`` names it.
    """
    probe = home / f".probe-{uuid.uuid4().hex[:8]}"
    probe.make_folders()
    try:
        (probe / _FIRST).write_atomic(b"")
        nodes = [node for node in ray.nodes() if node["Alive"]]
        tasks = [
            _probe_home.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), num_cpus=0
            ).remote(probe, node["NodeID"], upstream)
            for node in nodes
        ]
        for node, trouble in zip(nodes, ray.get(tasks), strict=True):
            if trouble:
                raise StoreError(
                    f"Node {node['NodeManagerAddress']} cannot use the home {home}: {trouble}",
                    allowed=f"{_SHARED}; or {_OBJECTS}",
                    remedy=Remedy("repeat", home="/shared/folder"),
                )
        seen = {path.name for path in probe.children()[1]}
        lost = [node for node in nodes if node["NodeID"] not in seen]
        if lost:
            raise StoreError(
                f"What node {lost[0]['NodeManagerAddress']} writes to {home} is not seen here: the home is not shared",
                allowed="a folder that every node of the cluster sees, such as one on NFS",
                remedy=Remedy("repeat", home="/shared/folder"),
            )
    finally:
        probe.remove_tree()


_FIRST = "first"
_SHARED = "a folder that every node of the cluster can write, such as one on NFS"
_OBJECTS = (
    "object storage that every node reaches, with the AWS_* variables or the role that lead to it, odkd[s3] on every node, "
    "and a server that supports If-None-Match"
)


@ray.remote
def _probe_home(folder: StorePath, name: str, upstream: StorePath | None) -> str:
    """Write a file into ``folder`` twice from this node; return the problem, or an empty text."""
    try:
        if upstream is not None and not (upstream / "store").is_dir():
            return f"the upstream home, {upstream}, is not seen there"
        if not (folder / _FIRST).exists():
            return "the files of the driver are not seen there"
        (folder / name).write_atomic(b"1", exclusive=True)
        (folder / name).write_atomic(b"2", exclusive=True)
    except FileExistsError:
        return ""
    except (OSError, OdkdError) as error:
        return str(error)
    return "it creates a file twice, so two writers of one entry would both succeed"
