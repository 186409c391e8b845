"""Writers in real processes that are killed with SIGKILL."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pytest

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.store import Draft, Store
from tests.support.store_samples import FILES, RECIPE, WRITER, make_entry, write_file, writer_environment


def _lines(mode: str, folder: StorePath) -> list[dict[str, Any]]:
    command = [sys.executable, str(WRITER), mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=writer_environment())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def _writer(mode: str, folder: StorePath) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    command = [sys.executable, str(WRITER), mode, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=writer_environment()) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: LocalPath) -> StorePath:
    """Where the writers' store is."""
    if request.param == "folder":
        return tmp_path
    bucket: BucketPath = request.getfixturevalue("bucket")
    return bucket / "store"


@pytest.fixture
def payload(tmp_path: LocalPath) -> str:
    """What an unbroken run makes."""
    return make_entry(Store(tmp_path / "unbroken")).manifest.payload


def test_the_next_process_adopts_the_parts_of_a_killed_one(
    root: StorePath, payload: str, caplog: pytest.LogCaptureFixture
) -> None:
    with _writer("hang", root) as (process, said):
        assert json.loads(said.readline()) == {"ready": True}
        process.kill()
        process.wait()
    store = Store(root)
    assert store.find("targets", RECIPE) is None
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        # Its other file was written and not finished: nobody knows whether it is whole.
        assert set(draft.parts()) == {"block-0"}
        assert not (draft.folder / "bits/c/1").exists()
        for name in FILES[1:]:
            write_file(draft, name)
        entry = draft.commit(FILES, measured={})
    assert entry.manifest.payload == payload
    assert entry.damaged() == {}
    assert caplog.messages == [f"targets/{entry.key}: resuming with 1 finished parts of an earlier run"]


def test_a_waiting_process_takes_over_from_a_killed_writer(root: StorePath, payload: str) -> None:
    with _writer("hang", root) as (first, said):
        assert json.loads(said.readline()) == {"ready": True}
        with _writer("make", root) as (second, answer):
            assert f"which process {first.pid} on " in json.loads(answer.readline())["message"]
            time.sleep(0.6)
            assert second.poll() is None
            first.kill()
            start = time.monotonic()
            assert "resuming with 1 finished parts" in json.loads(answer.readline())["message"]
            result = json.loads(answer.readline())
            assert time.monotonic() - start < 5
    assert (result["payload"], result["problems"], result["litter"]) == (payload, [], [])
    assert result["wrote"] == FILES[1:]


def _killed(root: StorePath, mode: str) -> list[dict[str, Any]]:
    """What the runs after each kill tell."""
    runs = [line for line in _lines(mode, root) if "payload" in line]
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    # Opening, syncing, linking and renaming three files, two markers, a manifest and a lease come to more than that; in a
    # bucket each is one request, and the markers are removed in the end.
    assert len(runs) > (40 if isinstance(root, Path) else 11)
    return runs


@pytest.mark.slow
def test_after_a_kill_before_any_operation_the_next_run_makes_the_same_entry(root: StorePath, payload: str) -> None:
    runs = _killed(root, "kills")
    for run in runs:
        assert (run["payload"], run["problems"]) == (payload, [])
        # The manifest comes last: an entry is found whole or not at all.
        assert run["before"] in (None, {"payload": payload, "problems": []})
        if run["before"] is None:
            # Beside the entry nothing stays but a manifest or lease that was being written.
            assert all(name.endswith(".partial") for name in run["litter"])
    # The later it was killed, the less is left to do; each finished part is used.
    lacking = [len(run["wrote"]) for run in runs]
    assert lacking == sorted(lacking, reverse=True)
    assert [count for count, _ in groupby(lacking)] == [3, 2, 1, 0]


@pytest.mark.slow
def test_after_a_kill_before_any_operation_of_a_rebuild_an_entry_exists(root: StorePath, payload: str) -> None:
    """The old one, or the new: what is forced is not lost if it comes to nothing."""
    for run in _killed(root, "replaces"):
        assert run["before"] == {"payload": payload, "problems": []}
        assert (run["payload"], run["problems"]) == (payload, [])
        assert all(name.endswith(".partial") for name in run["litter"])


@pytest.mark.slow
def test_two_processes_share_one_entry_and_do_the_work_once(root: StorePath, payload: str) -> None:
    lines = _lines("race", root)
    made = 0
    numbers = {line["round"] for line in lines if "payload" in line}
    assert len(numbers) == 6
    for number in numbers:
        mine = [line for line in lines if line.get("round") == number]
        pair = [line for line in mine if "folder" in line]
        (after,) = [line for line in mine if "payload" in line]
        assert len({line["folder"] for line in pair}) == 1
        assert all(line["wrote"] in ([], FILES) for line in pair)
        made += sum(line["wrote"] == FILES for line in pair)
        assert [line["problems"] for line in pair] == [[], []]
        assert (after["payload"], after["problems"], after["litter"]) == (payload, [], [])
    # There is an instant in which neither sees the other, and both do the work: harmless, and rare.
    assert 6 <= made <= 8
