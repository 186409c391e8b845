"""Two nodes on this machine, of which one does not see the folders of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from stages.data.windows import ImageSource
from stages.distributed import lost_nodes
from stages.distributed.lost_nodes import LostNodes
from stages.distributed.nodes import away_from, folders_of_run, seen_here
from stages.distributed.ray_train import run_trainings
from stages.distributed.run_tasks import TaskOptions, run_tasks, task_options
from stages.training.plan import TrainingPlan
from storage_schemas.errors import StoreError
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels
from tests.support.step_samples import make_context

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
def cluster() -> Iterator[Cluster]:
    """A head of one CPU, to which this process is connected."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> dict[str, str]:
    """The ids of two nodes; the blind one has more CPUs."""
    blind = cluster.add_node(num_cpus=2, env_vars={_BLIND: "1"})
    cluster.wait_for_nodes()
    ids = {"seeing": cluster.list_all_nodes()[0].node_id, "blind": blind.node_id}
    # Both have a worker process before the tests: a node whose first one starts slowly would get no task.
    there = ray.remote(num_cpus=1)(_where)
    ray.get([there.options(label_selector={"ray.io/node-id": node}).remote(0) for node in ids.values()])
    return ids


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


def test_tasks_that_only_a_blind_node_could_run_end_the_work(nodes: dict[str, str]) -> None:
    """The other node has a CPU, but not two: a task sent there would wait for ever."""
    options = TaskOptions(cpus=2, gpus=0, sees=seen_here([HalfSeen("/images")]))
    for _ in range(2):
        # The second time, the node is known from an earlier stage.
        with pytest.raises(StoreError, match="No node that could do this work sees /images, which is seen here"):
            list(run_tasks(_where, [(1, 1)], options=options, title="t", unit="jobs"))
    assert list(options.blind) == [nodes["blind"]]


def test_work_is_kept_away_only_if_other_nodes_have_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, **resources: float) -> dict[str, Any]:
        return {"NodeID": name, "Alive": True, "NodeManagerAddress": f"address of {name}", "Resources": resources}

    gpu, cpu, other = node("gpu", CPU=8.0, GPU=1.0), node("cpu", CPU=8.0), node("other", CPU=8.0, GPU=2.0)
    blind, one = {"gpu": LocalPath("/images")}, {"CPU": 1.0, "GPU": 0.5}
    monkeypatch.setattr(ray, "nodes", lambda: [gpu, cpu])
    assert away_from({}, one) == {}
    assert away_from(blind, {"CPU": 1.0, "GPU": 0}) == {"ray.io/node-id": "!in(gpu)"}
    with pytest.raises(StoreError, match="sees /images, which is seen here; address of gpu was the last one"):
        away_from(blind, one)
    monkeypatch.setattr(ray, "nodes", lambda: [gpu, cpu, other])
    away_from(blind, one, processes=4)
    with pytest.raises(StoreError):
        away_from(blind, one, processes=5)
    # An autoscaler may still add the first node with a GPU.
    monkeypatch.setattr(ray, "nodes", lambda: [{**gpu, "Alive": False}, cpu])
    assert away_from(blind, one) == {"ray.io/node-id": "!in(gpu)"}


def test_a_node_that_ends_in_order_is_not_lost_and_one_that_is_killed_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_nodes, "_SECONDS_BETWEEN_LOOKS", 0.0)
    added = {graceful: cluster.add_node(num_cpus=1) for graceful in (True, False)}
    cluster.wait_for_nodes()
    lost = LostNodes()
    for graceful, node in added.items():
        cluster.remove_node(node, allow_graceful=graceful)
        found = False
        while not found and any(facts["Alive"] for facts in ray.nodes() if facts["NodeID"] == node.node_id):
            found = lost.found()
            time.sleep(0.1)
        assert (found or lost.found()) is not graceful


def _plan(folder: LocalPath, kind: type[LocalPath]) -> TrainingPlan:
    """A training whose images lie in a folder of another class."""
    folder.mkdir()
    plan = make_plan(folder, on_labels(1))
    assert isinstance(plan.images.root, LocalPath)
    return replace(plan, images=ImageSource(kind(plan.images.root)))


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_training_on_a_blind_node_starts_again_elsewhere_and_later_work_stays_away_from_it(
    nodes: dict[str, str], tmp_path: LocalPath, caplog: pytest.LogCaptureFixture
) -> None:
    context = make_context(tmp_path / "home")
    plans = [_plan(tmp_path / name, HalfSeen) for name in "ab"]
    # Each gets a CPU, so one at least begins on the blind node. Its end there is no failure: none is permitted.
    cluster = context.settings.cluster.model_copy(update={"max_failures": 0})
    context = replace(context, settings=context.settings.model_copy(update={"cluster": cluster}))
    facts = run_trainings(context, plans)
    assert [fact["threads_per_worker"] for fact in facts] == [1, 1]
    first, second = (losses(local(plan.folder)) for plan in plans)
    assert first == second != []
    assert list(context.blind_nodes) == [nodes["blind"]]
    [warning] = [message for message in caplog.messages if "does not see" in message]
    assert "images, which is seen here: its tasks go to other nodes" in warning
    options = task_options(context, plans[0].images.root, network=True)
    done = run_tasks(_where, [(number, 1) for number in range(4)], options=options, title="t", unit="jobs")
    assert {node for _, node in done} == {nodes["seeing"]}
    assert [message for message in caplog.messages if "does not see" in message] == [warning]


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_training_whose_images_no_node_sees_ends_with_their_folder(
    nodes: dict[str, str], tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_DRIVER, "1")
    with pytest.raises(StoreError, match=r"No node that could do this work sees .*/images"):
        run_trainings(make_context(tmp_path / "home"), [_plan(tmp_path / "a", Unseen)])


def test_what_the_driver_does_not_see_is_asked_of_no_node(tmp_path: LocalPath) -> None:
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "file").touch()
    (tmp_path / "empty").mkdir()
    folders = [tmp_path / name for name in ("filled", "empty", "missing", "filled/file")]
    assert seen_here(folders) == (tmp_path / "filled",)


def test_a_node_must_see_the_home_the_images_and_the_upstream_home(tmp_path: LocalPath) -> None:
    context = replace(make_context(tmp_path / "home"), upstream=tmp_path / "team")
    folders = [context.run_dir, tmp_path / "images", tmp_path / "team"]
    assert folders_of_run(context, tmp_path / "images") == ()
    for folder in folders:
        assert isinstance(folder, LocalPath)
        (folder / "some").mkdir(parents=True)
    assert folders_of_run(context, tmp_path / "images") == tuple(folders)
    assert folders_of_run(replace(context, upstream=None), tmp_path / "images") == tuple(folders[:2])
