"""The whole pipeline on homes in a bucket of a real S3 server, which can be told to fail every third request.

The home ``CLEAN`` gets the teachers and the baseline of the home ``finished``, which is a folder; one run of all stages makes
the rest. Commands run in this process, on the warm Ray where they need one; ``ODKD_CACHE`` decides which node's local files
they see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.cache.__main__ import main as cache_main
from pipeline.run import main as run_main
from stages.data.loader import load_image
from storage_schemas.formats.instances import read_instances
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.store import Store
from tests.support.buckets import Server
from tests.support.store_samples import entries_of
from tests.support.warm_ray import Ran, run_here
from tests.support.whole_runs import arguments, entry_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")]

CLEAN, FAULTY, KILLED = (f"s3://odkd/{name}/home" for name in ("clean", "faulty", "killed"))


@dataclass(frozen=True)
class _Nodes:
    """Runs commands as the node of a given name: here, or in a process of its own."""

    server: Server
    folder: LocalPath

    def environment(self, node: str) -> dict[str, str]:
        return {**self.server.environment, "ODKD_CACHE": str(self.folder / node)}

    def process(self, module: str, *words: str, node: str) -> str:
        environment = {**os.environ, **self.environment(node)}
        command = [sys.executable, "-m", module, *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def run(self, stage: str, home: str, *words: str, node: str = "second") -> Ran:
        with self._as(node):
            return run_here(run_main, *_stage(stage, home), *words)

    def cache(self, *words: str, home: str = CLEAN, node: str = "second") -> Ran:
        with self._as(node):
            return run_here(cache_main, *words, "--home", home)

    @contextmanager
    def _as(self, node: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(node).items():
                patch.setenv(name, value)
            yield


def _stage(stage: str, home: str) -> list[str]:
    return arguments(home, stage)


def _done(ran: Ran) -> Ran:
    assert ran.status == 0, ran.out + ran.err
    return ran


@pytest.fixture(scope="module")
def nodes(
    _server: Server, nodes_folder: LocalPath, finished: LocalPath, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Nodes]:
    """A server with a home in which all stages have run; all of its networks but the student were trained in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        _server.make_bucket("odkd")
        nodes = _Nodes(_server, nodes_folder)
        for name, value in nodes.environment("first").items():
            patch.setenv(name, value)
        titles = ("primary teacher", "senior teacher", "baseline (the student without teachers)")
        trained = [entry_of(finished, title).entry_id for title in titles]
        export = str(tmp_path_factory.mktemp("export") / "trained.tar")
        _done(nodes.cache("export", *trained, export, home=str(finished)))
        _done(nodes.cache("import", export, node="first"))
        assert _done(nodes.run("all", CLEAN, node="first")).used_cluster
        yield nodes


@pytest.fixture(autouse=True)
def _this_process_is_a_node(nodes: _Nodes, monkeypatch: pytest.MonkeyPatch, tmp_path: LocalPath) -> None:
    monkeypatch.setenv("ODKD_CACHE", str(tmp_path / "this process"))


def _contents(home: str) -> dict[str, str]:
    """The content hash of each entry, by entry id; not of reports, which hold the time."""
    entries = take_inventory(Store(parse_path(home) / "store")).entries
    return {entry_id: entry.content for entry_id, entry in entries.items() if entry.manifest.kind != "reports"}


def _metrics(home: StorePath) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / "demo" / "metrics.json").read_bytes())
    return found


def test_a_run_leaves_the_same_files_in_a_bucket_as_in_a_folder(nodes: _Nodes, finished: LocalPath) -> None:
    home = parse_path(CLEAN)
    assert _contents(CLEAN) == _contents(str(finished))
    found = _metrics(home)
    names = set(home.files_below())
    assert {name.split("/")[0] for name in names} == {"datasets", "runs", "store"}
    left = {name.removeprefix("runs/demo/").split("/")[0] for name in names if name.startswith("runs/")}
    assert left == {"config.resolved.yaml", "metrics.json", "report.html", "tensorboard"}
    store = Store(home / "store")
    assert set(take_inventory(store).entries) == set(found["entries"].values())
    assert found["weights"].removeprefix(f"{CLEAN}/") in names
    # Only files that manifests name: no leases, no markers, no files of Ray.
    for entry in take_inventory(store).entries.values():
        inside = {name for name in names if name.startswith(f"store/{entry.entry_id}/")}
        named = {f"store/{entry.entry_id}/{entry.folder.name}/{name}" for name in entry.manifest.files}
        assert inside == {f"store/{entry.entry_id}/manifest.json", *named}


def test_a_second_run_on_another_node_computes_nothing(nodes: _Nodes) -> None:
    before = (parse_path(CLEAN) / "store").files_below()
    assert not _done(nodes.run("all", CLEAN)).used_cluster
    assert (parse_path(CLEAN) / "store").files_below() == before


def test_the_cache_commands_work_on_a_bucket(nodes: _Nodes, tmp_path: LocalPath) -> None:
    def cache(*words: str, home: str = CLEAN) -> str:
        return _done(nodes.cache(*words, home=home)).out

    entries = json.loads(cache("ls", "--json"))["entries"]
    assert {row["kind"] for row in entries} >= {"instances", "teachers", "views", "targets", "students", "evaluations"}
    assert all(row["experiments"] == ["demo"] for row in entries)
    cache("verify")
    assert json.loads(cache("gc", "--min-age", "0", "--json"))["removed"] == []
    cache("export", "demo", str(tmp_path / "demo.tar"))
    cache("import", str(tmp_path / "demo.tar"), home="s3://odkd/imported/home")
    assert _contents("s3://odkd/imported/home") == _contents(CLEAN)


def test_repair_restores_a_deleted_shard_in_a_bucket(nodes: _Nodes) -> None:
    store = Store(parse_path(CLEAN) / "store")
    entry = next(entry for entry in entries_of(store, "targets") if "bits/c/0/0" in entry.manifest.files)
    (entry.folder / "bits/c/0/0").unlink(missing_ok=True)
    refused = nodes.cache("verify", entry.entry_id)
    assert (refused.status, "bits/c/0/0" in refused.out) == (2, True)
    assert _done(nodes.cache("repair", entry.entry_id)).out.splitlines()[0] == "bits/c/0/0"
    assert entry.damaged() == {}


def test_a_data_set_in_a_bucket_gives_the_same_table_as_in_a_folder(nodes: _Nodes, tmp_path: LocalPath) -> None:
    (folder,) = (parse_path(CLEAN) / "datasets").children()[0]
    data = {
        "embedded": None,
        **{
            split: {"annotations": f"{folder}/annotations/{split}.json", "images": f"{folder}/images"}
            for split in ("train", "val")
        },
    }
    assert _done(nodes.run("prepare", str(tmp_path / "home"), f"--set=data={json.dumps(data)}")).used_cluster
    tables = entries_of(Store(tmp_path / "home" / "store"), "instances")
    drawn = {entry.content for entry in entries_of(Store(parse_path(CLEAN) / "store"), "instances")}
    assert {entry.content for entry in tables} == drawn
    # The local copy of an image is outdated, so the loader fetches the one that the table names.
    table = read_instances(tables[0].path("instances.parquet"))
    images = folder / "images"
    (images.mirror() / table.file_name_M[0]).parent.mkdir(parents=True)
    (images.mirror() / table.file_name_M[0]).write_bytes(b"another")
    assert load_image(images, table, 0).shape == (int(table.height_M[0]), int(table.width_M[0]), 3)


def test_entries_of_an_upstream_bucket_are_not_computed_again(nodes: _Nodes, tmp_path: LocalPath) -> None:
    own, before = str(tmp_path / "own"), parse_path(CLEAN).files_below()
    assert not _done(nodes.run("all", own, "--upstream", CLEAN)).used_cluster
    assert parse_path(CLEAN).files_below() == before
    assert _metrics(tmp_path / "own")["evaluate"] == _metrics(parse_path(CLEAN))["evaluate"]
    assert not (tmp_path / "own" / "store").exists()
    plan = _done(nodes.run("all", own, "--upstream", CLEAN, "--dry-run", "--set=distill.lr=0.001")).out
    rows = [line.split() for line in plan.splitlines()]
    assert {row[0] for row in rows if row[1:2] in (["miss"], ["stale"])} == {"distill", "evaluate", "report"}
    assert any(row[1:2] == ["hit"] and CLEAN in row for row in rows)


@pytest.mark.long
def test_a_killed_run_continues_on_another_node(nodes: _Nodes) -> None:
    """SIGKILL the driver and its workers once the bucket holds the first epoch of the student."""
    home, others = parse_path(KILLED), ("--upstream", CLEAN, "--set=distill.lr=0.001", "--set=distill.baseline=false")
    command = [sys.executable, "-m", "pipeline.run", *_stage("distill", KILLED), *others]
    killed = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **nodes.environment("killed")},
    )
    deadline = time.monotonic() + 300
    while not any(name.endswith("/epoch-00000.part.json") for name in home.files_below()):
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no epoch was saved"
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not take_inventory(Store(home / "store")).entries, "nothing was committed"
    nodes.process("pipeline.run", *_stage("all", KILLED), *others, node="fifth")
    made = take_inventory(Store(home / "store")).entries
    assert {entry.manifest.kind for entry in made.values()} == {"students", "evaluations", "reports"}
    (student,) = [entry for entry in made.values() if entry.manifest.kind == "students"]
    lines = [json.loads(line) for line in student.path("metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == [0, 1], "each epoch is logged once"
    left = {name.split("/")[-1] for name in (home / "store").files_below()}
    assert not {name for name in left if name.endswith((".part.json", ".lease"))}
    _done(nodes.cache("verify", "--upstream", CLEAN, home=KILLED))


@pytest.mark.long
def test_a_run_on_a_store_that_fails_every_third_request_has_the_same_contents(nodes: _Nodes) -> None:
    nodes.server.fail_every(3)
    try:
        nodes.process("pipeline.run", *_stage("all", FAULTY), node="third")
        assert nodes.server.failed() > 100
    finally:
        nodes.server.fail_every(0)
    assert _contents(FAULTY) == _contents(CLEAN)
    _done(nodes.cache("verify", home=FAULTY, node="fourth"))


def test_a_missing_bucket_is_refused(nodes: _Nodes) -> None:
    refused = nodes.run("prepare", "s3://elsewhere/home")
    assert (refused.status, refused.err.partition(":")[0]) == (2, "StoreError")
    assert "s3://elsewhere/home" in refused.err
