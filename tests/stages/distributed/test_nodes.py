"""Two nodes on this machine, of which one does not see the folders of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from stages.distributed.nodes import seen_here
from stages.distributed.run_tasks import TaskOptions, run_tasks
from storage_schemas.errors import StoreError
from storage_schemas.paths.local import LocalPath

pytestmark = pytest.mark.slow

_BLIND, _DRIVER = "ODKD_TEST_BLIND", "ODKD_TEST_DRIVER"


class HalfSeen(LocalPath):
    """A folder that one of the nodes does not see."""

    def is_filled(self) -> bool:
        return _BLIND not in os.environ


class Unseen(LocalPath):
    """A folder that only the driver sees."""

    def is_filled(self) -> bool:
        return _DRIVER in os.environ


class Denied(HalfSeen):
    """A folder that one of the nodes may not open."""

    def is_filled(self) -> bool:
        if _BLIND in os.environ:
            raise PermissionError(13, "Permission denied")
        return True


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """The ids of the two nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    blind = cluster.add_node(num_cpus=1, env_vars={_BLIND: "1"})
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    ids = {"seeing": cluster.list_all_nodes()[0].node_id, "blind": blind.node_id}
    # Both have a worker process before the tests: a node whose first one starts slowly would get no task.
    there = ray.remote(num_cpus=1)(_where)
    ray.get([there.options(label_selector={"ray.io/node-id": node}).remote(0) for node in ids.values()])
    yield ids
    ray.shutdown()
    cluster.shutdown()


def _where(job: int) -> str:
    time.sleep(0.5)
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.parametrize("kind", [HalfSeen, Denied])
def test_a_node_that_does_not_see_a_folder_gives_its_tasks_to_others(
    nodes: dict[str, str], caplog: pytest.LogCaptureFixture, kind: type[LocalPath]
) -> None:
    jobs = [(number, 1) for number in range(6)]
    everywhere = {node for _, node in run_tasks(_where, jobs, options=TaskOptions(cpus=1, gpus=0), title="t", unit="jobs")}
    assert everywhere == set(nodes.values()), "without the folder both nodes work"
    options = TaskOptions(cpus=1, gpus=0, sees=seen_here([kind("/images")]))
    done = list(run_tasks(_where, jobs, options=options, title="t", unit="jobs"))
    assert sorted(job for job, _ in done) == list(range(6))
    assert {node for _, node in done} == {nodes["seeing"]}
    (warning,) = [message for message in caplog.messages if "does not see" in message]
    assert "does not see /images, which is seen here: its tasks go to other nodes" in warning


def test_a_folder_that_no_node_sees_ends_the_work_with_its_name(nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_DRIVER, "1")
    options = TaskOptions(cpus=1, gpus=0, sees=seen_here([Unseen("/shared/home")]))
    with pytest.raises(StoreError, match="No node that could do this work sees /shared/home"):
        list(run_tasks(_where, [(1, 1), (2, 1)], options=options, title="t", unit="jobs"))


def test_what_the_driver_does_not_see_is_asked_of_no_node(tmp_path: LocalPath) -> None:
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "file").touch()
    (tmp_path / "empty").mkdir()
    folders = [tmp_path / name for name in ("filled", "empty", "missing", "filled/file")]
    assert seen_here(folders) == (tmp_path / "filled",)
