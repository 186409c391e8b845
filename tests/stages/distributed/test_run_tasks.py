"""Tasks on a real Ray with two logical GPUs: placement, reuse of processes, retries, and errors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from stages.base import Context, Device
from stages.distributed import lost_nodes
from stages.distributed import run_tasks as tasks
from stages.distributed.lost_nodes import LostNodes
from stages.distributed.run_tasks import run_tasks, task_options
from stages.settings import DataSettings, EmbeddedData, Settings, TeacherSource, TeachersSettings, TrainSettings
from storage_schemas.errors import DataError, Remedy
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


def _context(device: Device) -> Context:
    primary = TeacherSource(network="hrnet_w8_small", train=TrainSettings(epochs=1))
    settings = Settings(name="x", data=DataSettings(embedded=EmbeddedData()), teachers=TeachersSettings(primary=primary))
    return Context(settings, LocalPath("/nowhere"), device)


def _run(function: Any, jobs: list[Any], device: Device = "cpu") -> list[Any]:  # noqa: ANN401
    options = task_options(_context(device), LocalPath("/nowhere"), network=True)
    results = run_tasks(function, [(job, 1) for job in jobs], options=options, title="test", unit="jobs")
    return [result for _, result in results]


def _where(job: int) -> tuple[int, tuple[int, ...]]:
    time.sleep(0.3)
    return os.getpid(), tuple(int(gpu) for gpu in ray.get_gpu_ids())


def test_tasks_share_the_gpus_and_reuse_their_processes() -> None:
    placed = _run(_where, list(range(12)), "cuda")
    assert {gpus for _, gpus in placed} == {(0,), (1,)}, "each task has one of the two GPUs"
    # If processes ended after every task, there would be twelve of them.
    assert len({process for process, _ in placed}) <= 4


def test_tasks_on_a_cpu_run_ask_for_no_gpu() -> None:
    assert {gpus for _, gpus in _run(_where, [1, 2])} == {()}


def _die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_a_killed_worker_is_replaced_and_its_task_is_repeated(tmp_path: LocalPath) -> None:
    assert _run(_die_once, [str(tmp_path / "marker")]) == ["done"]


def _hang_at_first(folder: str) -> str:
    try:
        Path(folder).mkdir()
    except FileExistsError:
        return "copy"
    time.sleep(600)
    return "first"


def test_after_the_loss_of_a_node_a_copy_of_each_task_is_started_and_the_first_to_end_counts(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The node is only said to be lost: Ray gives a task of a real lost one up much later."""
    folders = [str(tmp_path / name) for name in "ab"]

    def begun(_: LostNodes) -> bool:
        return all(Path(folder).exists() for folder in folders) and not caplog.messages

    monkeypatch.setattr(LostNodes, "found", begun)
    assert _run(_hang_at_first, folders) == ["copy", "copy"]
    assert caplog.messages == ["'test': a node was lost; its tasks are started on other nodes"]


def test_a_node_that_has_died_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, alive: bool) -> dict[str, object]:
        return {"NodeID": name, "Alive": alive}

    now = [[node("a", True), node("b", True)]]
    monkeypatch.setattr(ray, "nodes", lambda: now[0])
    monkeypatch.setattr(lost_nodes, "_SECONDS_BETWEEN_LOOKS", 0.0)
    lost = LostNodes()
    assert not lost.found()
    now[0] = [node("a", True), node("b", False), node("c", True)]
    assert [lost.found(), lost.found()] == [True, False]
    now[0] = [node("a", True), node("c", False) | {"DeathReason": 1}]
    assert not lost.found()
    now[0] = [node("a", False) | {"DeathReason": 2}]
    assert lost.found()


def _end_slowly(folder: str) -> str:
    try:
        Path(folder).mkdir()
    except FileExistsError:
        return "copy"
    try:
        # Ray interrupts a task between two instructions of Python, not within a long sleep.
        while True:
            time.sleep(0.1)
    except KeyboardInterrupt:
        time.sleep(2)
        (Path(folder) / "ended").touch()
        raise


def test_the_results_are_used_when_no_cancelled_copy_writes_any_more(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a"
    monkeypatch.setattr(LostNodes, "found", lambda _: folder.exists() and not caplog.messages)
    # On a busy machine the interruption reaches the copy late.
    monkeypatch.setattr(tasks, "_SECONDS_OF_A_CANCELLED_COPY", 120.0)
    assert _run(_end_slowly, [str(folder)]) == ["copy"]
    assert (folder / "ended").exists()


def _refuse(job: int) -> None:
    raise DataError("image 7 is broken", allowed="intact images", remedy=Remedy("shell", text="repair it"))


def test_an_error_keeps_its_fields_across_processes() -> None:
    with pytest.raises(DataError) as caught:
        _run(_refuse, [1, 2, 3])
    assert (caught.value.seen, caught.value.allowed, suggested(caught.value)) == (
        "image 7 is broken",
        "intact images",
        "repair it",
    )
