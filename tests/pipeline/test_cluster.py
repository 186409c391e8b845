"""Looking before running: what no cluster has is told, and not waited for in silence. No Ray is started here."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import AuthenticationError, RaySystemError

from pipeline import cluster
from stages.base import Device
from stages.settings import ClusterSettings
from storage_schemas.errors import ClusterError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from tests.support.buckets import Server
from tests.support.errors import suggested


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in (
        *cluster._TRAIN_ENVIRONMENT,
        *cluster._TRAIN_ENVIRONMENT_HERE,
        "RAY_USAGE_STATS_ENABLED",
        "RAY_IGNORE_UNHANDLED_ERRORS",
    ):
        # Set here, so that what connect() sets is taken back.
        monkeypatch.setenv(name, "0")


def _nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    nodes = [{"Alive": True, "Resources": each} for each in resources]
    dead = {"Alive": False, "Resources": {"CPU": 1000, "GPU": 1000}}
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, dead])


LACKING: list[tuple[dict[str, Any], Device, list[dict[str, float]], str]] = [
    ({"cpus_per_task": 5}, "cpu", [{"CPU": 4}, {"CPU": 4}], "No node has CPU 5 "),
    ({"device": "cuda"}, "cuda", [{"CPU": 4}], "No node has CPU 1, GPU 1 "),
    ({"device": "cuda", "cpus_per_task": 8}, "cuda", [{"CPU": 16}, {"CPU": 4, "GPU": 1}], "No node has CPU 8, GPU 1 "),
    ({}, "cpu", [{"memory": 1}], "No node has CPU 1 "),
]


@pytest.mark.parametrize(("settings", "device", "nodes", "said"), LACKING)
def test_what_this_machine_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], device: Device, nodes: list[dict[str, float]], said: str
) -> None:
    _nodes(monkeypatch, *nodes)
    with pytest.raises(ClusterError, match=said) as caught:
        cluster.check_resources(ClusterSettings(**settings), device)
    assert "--set cluster.cpus_per_task=1" in suggested(caught.value)


@pytest.mark.parametrize(("settings", "device", "nodes", "said"), LACKING)
def test_what_a_cluster_elsewhere_does_not_have_yet_is_said_and_waited_for(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    device: Device,
    nodes: list[dict[str, float]],
    said: str,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    _nodes(monkeypatch, *nodes)
    with caplog.at_level(logging.WARNING):
        cluster.check_resources(ClusterSettings(**settings), device)
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "autoscaler" in record.getMessage()


@pytest.mark.parametrize("address", ["", "head:6379"])
def test_tasks_that_fit_a_node_are_no_matter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    _nodes(monkeypatch, {"CPU": 0}, {"CPU": 4, "GPU": 1})
    cluster.check_resources(ClusterSettings(cpus_per_task=4, gpus_per_task=0.25), "cuda")
    cluster.check_resources(ClusterSettings(), "cpu")
    assert caplog.records == []


def test_a_gpu_that_this_machine_does_not_have_is_refused_before_ray_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ClusterError, match="no GPU that torch can use"):
        cluster.device(ClusterSettings(device="cuda"))
    assert [cluster.device(ClusterSettings(device=asked)) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster.device(ClusterSettings(device="cuda")) == "cuda", "a cluster may start one"


@pytest.mark.parametrize(("address", "where"), [("", "local"), ("head:6379", "head:6379")])
def test_a_token_that_is_not_there_is_told_with_the_commands_that_make_it(
    monkeypatch: pytest.MonkeyPatch, address: str, where: str
) -> None:
    def refuse(**_: object) -> None:
        raise AuthenticationError("Token authentication is enabled but no token was found")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=f"Ray at '{where}' asks for a token: Token authentication") as caught:
        cluster.connect()
    assert "export RAY_AUTH_MODE=token; ray get-auth-token --generate" in suggested(caught.value)


@pytest.mark.parametrize("error", [RaySystemError("no more"), Exception("The current node timed out"), OSError("no room")])
@pytest.mark.parametrize(
    ("address", "said"), [("", "Ray cannot be started on this machine: "), ("head:6379", "Cannot reach Ray at 'head:6379': ")]
)
def test_any_error_of_ray_while_connecting_is_a_cluster_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, error: Exception, address: str, said: str
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=f"{said}.*{error}"):
        cluster.connect()


@pytest.mark.parametrize(
    ("address", "said"),
    [("", "Ray: local cluster with 2 CPUs and 0 GPUs"), ("head:6379", "Ray: joined head:6379, 2 CPUs and 0 GPUs")],
)
def test_connecting_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str, said: str
) -> None:
    """Other tests take the absence of this line for a run without Ray."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    asked: list[object] = []
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with caplog.at_level(logging.INFO):
        cluster.connect()
    assert asked == [address or "local"]
    assert caplog.messages == [said]


def _probed(path: StorePath, name: str, upstream: StorePath | None = None) -> str:
    """What a node says of a home, without a cluster."""
    found: str = cluster._probe_home._function(path, name, upstream)  # type: ignore[attr-defined] # what Ray wraps
    return found


def test_a_home_that_creates_a_file_twice_is_refused(server: Server, bucket: BucketPath) -> None:
    assert "not seen" in _probed(bucket / "home", "node")
    (bucket / "home" / "first").write_atomic(b"")
    assert _probed(bucket / "home", "node") == ""
    server.overwrite(True)
    assert "would both succeed" in _probed(bucket / "home", "other")


def test_a_home_in_a_folder_is_probed_too(tmp_path: LocalPath) -> None:
    assert "not seen" in _probed(tmp_path, "node")
    (tmp_path / "first").touch()
    assert _probed(tmp_path, "node") == ""
    assert "not seen" in _probed(tmp_path / "elsewhere", "node")
    assert f"the upstream home, {tmp_path / 'team'}, is not seen there" in _probed(tmp_path, "other", tmp_path / "team")
    (tmp_path / "team" / "store").mkdir(parents=True)
    assert _probed(tmp_path, "other", tmp_path / "team") == ""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TMPDIR": "/t" * 19}, None),
        ({"TMPDIR": "/t" * 20}, "/tmp/ray"),
        ({"TMPDIR": "/\u00e4" * 14}, "/tmp/ray"),
        ({"TMPDIR": "/t" * 20, "RAY_TMPDIR": "/short"}, None),
        ({}, None),
    ],
)
def test_a_long_temporary_folder_is_replaced_by_a_short_one(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cluster._short_folder() == expected


def test_a_long_folder_that_the_user_chose_for_ray_is_refused_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/t" * 20)
    with pytest.raises(ClusterError, match=r"RAY_TMPDIR is (/t){20}, 40 bytes long") as caught:
        cluster._short_folder()
    assert suggested(caught.value) == "export RAY_TMPDIR=/tmp"
