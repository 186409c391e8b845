"""Imports that are interrupted or killed, and imports beside other writers of the same entry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.paths.local import LocalPath
from storage_schemas.store import transfer
from storage_schemas.store.lease import Lease
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from storage_schemas.store.transfer import import_entry, open_export
from tests.support.archive_samples import BOTH, OTHER, exported, find_targets, imported, two_entries
from tests.support.buckets import local
from tests.support.store_samples import RECIPE, make_entry, unfinished


@pytest.fixture
def entries(tmp_path: LocalPath) -> list[Entry]:
    return two_entries(tmp_path / "from")


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path / "to")


@BOTH
def test_an_interrupted_import_leaves_nothing_of_its_entry(
    tmp_path: LocalPath, store: Store, entries: list[Entry], name: str
) -> None:
    source = exported(entries, tmp_path / name)
    seen: list[None] = []

    def stop() -> None:
        seen.append(None)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(store, source, stop)
    assert find_targets(store) is not None
    assert find_targets(store, OTHER) is None
    assert list(local(store.root / entries[1].entry_id).iterdir()) == []
    assert imported(store, source) == ["exists already", "imported"]


IMPORT = """
import json, os, signal, sys, time
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Store
from storage_schemas.store.transfer import import_entry, open_export
left, pause = [int(sys.argv[3])], float(sys.argv[4])
def step():
    time.sleep(pause)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
archive, store = open_export(LocalPath(sys.argv[1])), Store(LocalPath(sys.argv[2]))
done = [import_entry(store, archive, each, advance=step) for each in archive.manifests()]
print(json.dumps(done))
"""
# The code beside these tests, wherever another copy may be installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def _begin(source: Path, store: Store, *, killed_at: int = 0, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT, str(source), str(store.root), str(killed_at), str(pause)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def test_a_killed_import_leaves_no_entry_and_the_next_one_is_complete(
    tmp_path: LocalPath, store: Store, entries: list[Entry]
) -> None:
    source = exported(entries, tmp_path / "out.tar")
    for killed_at in (1, 3):
        with _begin(source, store, killed_at=killed_at) as process:
            process.communicate("\n", timeout=60)
        assert process.returncode == -9
        assert find_targets(store) is None
        assert (store.root / entries[0].entry_id).is_dir(), "it had begun"
    assert imported(store, source) == ["imported", "imported"]
    found = find_targets(store)
    assert found is not None
    assert found.damaged() == {}


def test_two_imports_at_once_import_each_entry_once(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries, tmp_path / "out.tar")
    processes = [_begin(source, store, pause=0.02) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        outcomes = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            outcomes.append(json.loads(out))
    finally:
        for process in processes:
            process.kill()
    for first, second in zip(*outcomes, strict=True):
        assert sorted((first, second)) == ["exists already", "imported"]
    for recipe in (RECIPE, OTHER):
        found = find_targets(store, recipe)
        assert found is not None
        assert found.damaged() == {}
        assert {path.name for path in local(found.folder.parent).iterdir()} == {"manifest.json", found.folder.name}


def test_an_import_waits_for_another_writer_and_takes_its_entry(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = exported(entries[:1], tmp_path / "out")
    home = store.root / "targets" / key_of("targets", RECIPE)
    home.make_folders()
    with Lease(home / "20200101T000000000000-00000000.lease") as lease:

        def finish(_: float) -> None:
            lease.path.unlink()
            make_entry(store)

        monkeypatch.setattr("time.sleep", finish)
        archive = open_export(LocalPath(source))
        outcome = import_entry(store, archive, archive.manifests()[0], advance=lambda: None)
    assert outcome == "exists already"
    assert caplog.messages[0].startswith(f"Waiting for {entries[0].entry_id}, which process {os.getpid()}")


def test_an_import_reports_nothing_about_the_parts_of_a_dead_writer(
    tmp_path: LocalPath, store: Store, entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    unfinished(store, (0,))
    archive = open_export(LocalPath(exported(entries[:1], tmp_path / "out")))
    import_entry(store, archive, archive.manifests()[0], advance=lambda: None)
    assert caplog.messages == []


def test_an_entry_that_another_writer_commits_first_exists_already(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer commits after the import has looked for the entry."""
    source = exported(entries[:1], tmp_path / "out")
    real = transfer._fill

    def late(draft: Draft, *more: Any) -> None:  # noqa: ANN401 (as _fill takes them)
        real(draft, *more)
        for lease in local(draft.folder.parent).glob("*.lease"):
            lease.unlink()
        with monkeypatch.context() as patch:
            patch.setattr("storage_schemas.store.lease.LeaseWatch.is_dead", lambda _: True)
            make_entry(store)

    monkeypatch.setattr(transfer, "_fill", late)
    assert imported(store, source) == ["exists already"]


def test_a_run_adopts_nothing_of_an_import_that_ended_during_its_commit(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may have other bits than those that the run computes."""
    source = exported(entries[:1], tmp_path / "out")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            imported(store, source)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert draft.parts() == {}
