"""The whole pipeline on homes in a bucket, on a real server of the S3 protocol; one of them fails every third request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stages.data.loader import load_image
from storage_schemas.formats.instances import read_instances
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.store import Store
from tests.support.buckets import Server, served

pytestmark = pytest.mark.slow

TINY = {
    "data.embedded.train_images": 12,
    "data.embedded.val_images": 4,
    "crop.size_wh": [64, 64],
    "teachers.primary.network": "hrnet_w8_tiny",
    "teachers.primary.train.epochs": 1,
    "teachers.senior.train.epochs": 1,
    "teachers.senior.control": False,
    "views.count": 2,
    "distill.student.network": "hrnet_w8_tiny",
    "distill.baseline": False,
    "distill.epochs": 2,
    "distill.schedule": "primary_then_senior",
}
STARTED = "Ray: local cluster with"
CLEAN, FAULTY, KILLED = (f"s3://odkd/{name}/home" for name in ("clean", "faulty", "killed"))


@dataclass(frozen=True)
class _Nodes:
    """What runs commands as this node, or as another of the given name."""

    server: Server
    folder: LocalPath

    def environment(self, node: str) -> dict[str, str]:
        return {**os.environ, **self.server.environment, "ODKD_CACHE": str(self.folder / node)}

    def run(self, module: str, *words: str, node: str = "first") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *words]
        environment = self.environment(node)
        return subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False, env=environment)

    def stages(self, stage: str, home: str, *words: str, node: str = "first") -> str:
        return _output(self.run("pipeline.run", "--stage", stage, "--home", home, *_settings(), *words, node=node))


def _settings() -> list[str]:
    return [f"--set={name}={json.dumps(value)}" for name, value in TINY.items()]


def _output(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Nodes]:
    """A server with a home in which all stages have run."""
    with served() as server:
        server.make_bucket("odkd")
        found = _Nodes(server, LocalPath(tmp_path_factory.mktemp("nodes")))
        found.stages("all", CLEAN)
        yield found


@pytest.fixture(autouse=True)
def _as_they_do(nodes: _Nodes, monkeypatch: pytest.MonkeyPatch, tmp_path: LocalPath) -> None:
    for name, value in nodes.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ODKD_CACHE", str(tmp_path / "this process"))


def _contents(home: str) -> dict[str, str]:
    """By place what the files of each entry hold; a report holds the time, and a curve those of its epochs."""
    entries = take_inventory(Store(parse_path(home) / "store")).entries
    return {entry_id: entry.content for entry_id, entry in entries.items() if entry.manifest.kind != "reports"}


def _metrics(home: StorePath) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / "demo" / "metrics.json").read_bytes())
    return found


def test_a_run_leaves_in_the_bucket_what_it_would_leave_in_a_folder(nodes: _Nodes) -> None:
    home = parse_path(CLEAN)
    found = _metrics(home)
    names = set(home.files_below())
    assert {name.split("/")[0] for name in names} == {"datasets", "runs", "store"}
    left = {name.removeprefix("runs/demo/").split("/")[0] for name in names if name.startswith("runs/")}
    assert left == {"config.resolved.yaml", "metrics.json", "report.html", "tensorboard"}
    store = Store(home / "store")
    assert set(take_inventory(store).entries) == set(found["entries"].values())
    assert found["weights"].removeprefix(f"{CLEAN}/") in names
    # Nothing but what manifests name: no leases, no markers, nothing of Ray's.
    for entry in take_inventory(store).entries.values():
        inside = {name for name in names if name.startswith(f"store/{entry.entry_id}/")}
        named = {f"store/{entry.entry_id}/{entry.folder.name}/{name}" for name in entry.manifest.files}
        assert inside == {f"store/{entry.entry_id}/manifest.json", *named}


def test_a_second_run_at_another_node_makes_nothing(nodes: _Nodes) -> None:
    before = (parse_path(CLEAN) / "store").files_below()
    assert STARTED not in nodes.stages("all", CLEAN, node="second")
    assert (parse_path(CLEAN) / "store").files_below() == before


def test_the_commands_of_the_cache_know_a_bucket(nodes: _Nodes, tmp_path: LocalPath) -> None:
    def cache(*words: str, home: str = CLEAN) -> str:
        return _output(nodes.run("pipeline.cache", *words, "--home", home, node="second"))

    entries = json.loads(cache("ls", "--json"))["entries"]
    assert {row["kind"] for row in entries} >= {"instances", "teachers", "views", "targets", "students", "evaluations"}
    assert all(row["experiments"] == ["demo"] for row in entries)
    assert ": OK" in cache("verify")
    assert json.loads(cache("gc", "--min-age", "0", "--json"))["removed"] == []
    cache("export", "demo", str(tmp_path / "demo.tar"))
    cache("import", str(tmp_path / "demo.tar"), home="s3://odkd/imported/home")
    assert _contents("s3://odkd/imported/home") == _contents(CLEAN)


def test_a_lost_shard_in_a_bucket_is_made_again(nodes: _Nodes) -> None:
    store = Store(parse_path(CLEAN) / "store")
    entry = next(entry for entry in store.entries("targets") if "bits/c/0/0" in entry.manifest.files)
    (entry.folder / "bits/c/0/0").unlink(missing_ok=True)
    refused = nodes.run("pipeline.cache", "verify", entry.entry_id, "--home", CLEAN)
    assert (refused.returncode, "bits/c/0/0 is missing" in refused.stdout) == (2, True)
    assert "1 file recomputed" in _output(nodes.run("pipeline.cache", "repair", entry.entry_id, "--home", CLEAN))
    assert entry.problems() == []


def test_a_data_set_in_a_bucket_gives_the_table_that_it_gives_in_a_folder(nodes: _Nodes, tmp_path: LocalPath) -> None:
    (folder,) = (parse_path(CLEAN) / "datasets").children()[0]
    data = {
        "embedded": None,
        **{
            split: {"annotations": f"{folder}/annotations/{split}.json", "images": f"{folder}/images"}
            for split in ("train", "val")
        },
    }
    nodes.stages("prepare", str(tmp_path / "home"), f"--set=data={json.dumps(data)}", node="second")
    tables = list(Store(tmp_path / "home" / "store").entries("instances"))
    drawn = {entry.content for entry in Store(parse_path(CLEAN) / "store").entries("instances")}
    assert {entry.content for entry in tables} == drawn
    # The picture that a node keeps was of another day: the one of the table is fetched.
    table = read_instances(tables[0].path("instances.parquet"))
    images = folder / "images"
    (images.mirror() / table.file_name_M[0]).parent.mkdir(parents=True)
    (images.mirror() / table.file_name_M[0]).write_bytes(b"another")
    assert load_image(images, table, 0).shape == (int(table.height_M[0]), int(table.width_M[0]), 3)


def test_what_a_team_has_in_a_bucket_is_not_made_again(nodes: _Nodes, tmp_path: LocalPath) -> None:
    before = parse_path(CLEAN).files_below()
    output = nodes.stages("all", str(tmp_path / "own"), "--upstream", CLEAN)
    assert STARTED not in output
    assert parse_path(CLEAN).files_below() == before
    assert _metrics(tmp_path / "own")["evaluate"] == _metrics(parse_path(CLEAN))["evaluate"]
    assert not (tmp_path / "own" / "store").exists()
    plan = nodes.stages("all", str(tmp_path / "own"), "--upstream", CLEAN, "--dry-run", "--set=distill.lr=0.001")
    assert f"hit    train instances and 1 more: in {CLEAN}" in plan
    assert {line.split()[0] for line in plan.splitlines() if line.split()[1:2] in (["miss"], ["stale"])} == {
        "distill",
        "evaluate",
        "report",
    }


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_at_another_node(nodes: _Nodes) -> None:
    """SIGKILL of the driver and its workers once the first epoch of the student lies in the bucket."""
    home, others = parse_path(KILLED), ("--upstream", CLEAN, "--set=distill.lr=0.001")
    command = [sys.executable, "-m", "pipeline.run", "--stage", "distill", "--home", KILLED, *_settings(), *others]
    killed = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=nodes.environment("killed"),
    )
    deadline = time.monotonic() + 300
    while not any(name.endswith("/epoch-00000.part.json") for name in home.files_below()):
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no epoch was saved"
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not take_inventory(Store(home / "store")).entries, "nothing was committed"
    assert "finished parts of an earlier run" in nodes.stages("all", KILLED, *others, node="fifth")
    made = take_inventory(Store(home / "store")).entries
    assert {entry.manifest.kind for entry in made.values()} == {"students", "evaluations", "reports"}
    (student,) = [entry for entry in made.values() if entry.manifest.kind == "students"]
    lines = [json.loads(line) for line in student.path("metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == [0, 1], "no epoch is told of twice, and none is missing"
    left = {name.split("/")[-1] for name in (home / "store").files_below()}
    assert not {name for name in left if name.endswith((".part.json", ".lease"))}
    assert ": OK" in _output(nodes.run("pipeline.cache", "verify", "--home", KILLED, "--upstream", CLEAN))


@pytest.mark.long
def test_on_a_store_that_fails_every_third_request_a_run_ends_with_the_same_contents(nodes: _Nodes) -> None:
    nodes.server.fail_every(3)
    try:
        nodes.stages("all", FAULTY, node="third")
        assert nodes.server.failed() > 100
    finally:
        nodes.server.fail_every(0)
    assert _contents(FAULTY) == _contents(CLEAN)
    assert ": OK" in _output(nodes.run("pipeline.cache", "verify", "--home", FAULTY, node="fourth"))


def test_a_bucket_that_is_not_there_is_refused(nodes: _Nodes) -> None:
    result = nodes.run("pipeline.run", "--stage", "prepare", "--home", "s3://elsewhere/home", *_settings())
    assert result.returncode == 2
    assert "s3://elsewhere/home cannot be used" in result.stderr
    assert "Traceback" not in result.stderr
