"""``gc``: what it removes and leaves, what it says, and what stops it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline import cluster, graph
from pipeline.cache import gc as gc_command
from pipeline.cli import DONE, FAILED, USER_MISTAKE
from pipeline.config.load import load_settings
from pipeline.experiments import noting, refer
from pipeline.home import make_home
from pipeline.run import main as run
from stages.base import Context
from stages.prepare import stage as prepare
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store import gc as garbage
from storage_schemas.store.lease import Lease
from storage_schemas.store.store import Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import Cache, grow_old, put


@pytest.fixture
def old(cache: Cache, made: dict[str, Entry]) -> dict[str, Entry]:
    """The entries, a day and an hour old."""
    grow_old(cache.home / "store", 25)
    return made


def _there(cache: Cache) -> set[str]:
    return {f"{path.parent.parent.name}/{path.parent.name}" for path in (cache.home / "store").glob("*/*/manifest.json")}


def test_gc_removes_what_no_experiment_refers_to_and_says_what_it_frees(cache: Cache, old: dict[str, Entry]) -> None:
    manifest = old["unused"].folder.parent / "manifest.json"
    freed = local(manifest).stat().st_size + 7
    lines = cache.lines("gc")
    assert lines[:2] == [["entry", "what", "size", "age"], [old["unused"].entry_id, "entry", lines[1][2], "25 h"]]
    assert lines[-1] == [f"{lines[1][2]} freed in {cache.home / 'store'}"]
    assert not manifest.exists()
    assert _there(cache) == {entry.entry_id for name, entry in old.items() if name != "unused"}
    assert lines[1][2] == (f"{freed} B" if freed < 1000 else f"{freed / 1000:.1f} kB")
    assert cache("verify") == DONE
    assert cache.json("gc") == {"dry_run": False, "removed": [], "bytes": 0, "left": {}, "unfinished": []}


def test_a_dry_run_says_the_same_and_removes_nothing(cache: Cache, old: dict[str, Entry]) -> None:
    known = cache.json("gc", "--dry-run")
    assert [(item["entry"], item["what"]) for item in known["removed"]] == [(old["unused"].entry_id, "entry")]
    assert known["dry_run"] is True
    assert cache("gc", "--dry-run") == DONE
    assert "to be freed in" in cache.out
    assert _there(cache) == {entry.entry_id for entry in old.values()}
    done = cache.json("gc")
    assert done["bytes"] == known["bytes"]
    assert [item["entry"] for item in done["removed"]] == [item["entry"] for item in known["removed"]]


def test_what_is_younger_stays(cache: Cache, made: dict[str, Entry]) -> None:
    grow_old(cache.home / "store", 23)
    assert cache.json("gc")["removed"] == []
    assert cache.json("gc", "--min-age", "23.5")["removed"] == []
    assert [item["entry"] for item in cache.json("gc", "--min-age", "22.5")["removed"]] == [made["unused"].entry_id]


@pytest.mark.parametrize("hours", ["-1", "nan", "a day"])
def test_an_age_that_is_none_is_refused(cache: Cache, capsys: pytest.CaptureFixture[str], hours: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cache("gc", "--min-age", hours)
    assert caught.value.code == 2
    assert f"'{hours}' is not a number of hours" in capsys.readouterr().err


def test_without_experiments_nothing_is_used(cache: Cache, old: dict[str, Entry]) -> None:
    shutil.rmtree(cache.home / "runs")
    assert len(cache.json("gc")["removed"]) == len(old)
    assert _there(cache) == set()
    assert list((cache.home / "store").glob("*/*/*")) == []


def test_what_a_run_in_progress_needs_stays(cache: Cache, old: dict[str, Entry]) -> None:
    """Its figures, which name the entries, are written at its end."""
    refer(cache.home / "runs" / "new", "now", [old["unused"].entry_id, "targets/0123456789abcdef"])
    assert cache.json("gc")["removed"] == []
    assert _there(cache) == {entry.entry_id for entry in old.values()}


def test_what_the_pipeline_is_making_stays_while_it_does_and_when_it_is_interrupted(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline itself: its run finds an old entry, and is stopped before it has made the next."""
    context = Context(load_settings(None), cache.home, "cpu")
    train, val = (put(context.store, step.kind, step.recipe) for step in prepare.steps(context))
    unused = put(context.store, "instances", {"split": "other"})
    grow_old(cache.home / "store", 25)

    def stopped(*_: object, **__: object) -> None:
        assert [item["entry"] for item in cache.json("gc", "--dry-run")["removed"]] == [unused.entry_id]
        raise KeyboardInterrupt

    monkeypatch.setattr(graph, "make_stage", stopped)
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    assert run(["--stage", "teachers", "--home", str(cache.home)]) == FAILED
    assert [item["entry"] for item in cache.json("gc")["removed"]] == [unused.entry_id]
    assert _there(cache) == {train.entry_id, val.entry_id}


def test_what_gc_takes_before_a_run_has_noted_it_is_missed_and_not_read(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = Context(load_settings(None), cache.home, "cpu")
    for step in prepare.steps(context):
        put(context.store, step.kind, step.recipe, {})
    grow_old(cache.home / "store", 25)
    real = make_home

    def collected(home: LocalPath) -> None:
        assert len(cache.json("gc")["removed"]) == 2
        real(home)

    monkeypatch.setattr("pipeline.run.make_home", collected)
    assert run(["--stage", "teachers", "--home", str(cache.home)]) == USER_MISTAKE
    assert "Stage 'teachers' needs results of prepare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: (run / "metrics.json").write_text("{"),
        lambda run: (run / "metrics.json").write_text('{"name": "of an older release"}'),
        lambda run: (run / "metrics.json").unlink(),
    ],
    ids=["damaged figures", "figures without entries", "settings alone"],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_an_experiment_of_which_it_is_not_known_what_it_needs_stops_everything(
    cache: Cache, old: dict[str, Entry], spoil: Callable[[Path], object], options: list[str]
) -> None:
    run_dir = cache.home / "runs" / "demo"
    spoil(run_dir)
    assert cache("gc", *options) == USER_MISTAKE
    assert cache.err.startswith("StoreError: The entries of experiment 'demo' are unknown: ")
    config = run_dir / "config.resolved.yaml"
    assert f"python -m pipeline.run --config {config} --home {cache.home} --stage all" in cache.err
    assert f"rm -r {run_dir}" in cache.err
    assert _there(cache) == {entry.entry_id for entry in old.values()}
    shutil.rmtree(run_dir)
    assert cache("gc") == DONE


def test_notes_that_cannot_be_read_stop_everything_until_they_are_removed(cache: Cache, old: dict[str, Entry]) -> None:
    refer(cache.home / "runs" / "demo", "lost", [old["unused"].entry_id])
    notes = cache.home / "runs" / "demo" / "unfinished" / "lost"
    (notes / "entries.json").write_text("{")
    assert cache("gc") == USER_MISTAKE
    assert "The entries of experiment 'demo' are unknown: unfinished/lost/entries.json names no entries" in cache.err
    assert f"  Next:    rm -r {notes}\n" in cache.err
    shutil.rmtree(notes)
    assert cache("gc") == DONE


def test_gc_tells_of_runs_that_are_not_finished_what_they_keep_and_how_to_give_them_up(
    cache: Cache, old: dict[str, Entry]
) -> None:
    folder = cache.home / "runs" / "demo"
    with noting(folder, "living", "name: demo\n"):
        refer(folder, "living", [old["train"].entry_id])
        with suppress(KeyboardInterrupt), noting(folder, "stopped", "name: demo\n"):
            refer(folder, "stopped", [old["train"].entry_id, old["unused"].entry_id, "targets/0123456789abcdef"])
            raise KeyboardInterrupt
        known = cache.json("gc")
        process = f"process {os.getpid()} on {os.uname().nodename}"
        assert known["removed"] == []
        assert known["unfinished"] == [
            {"experiment": "demo", "notes": str(folder / "unfinished" / "living"), "process": process, "keeps": []},
            {
                "experiment": "demo",
                "notes": str(folder / "unfinished" / "stopped"),
                "process": "",
                "keeps": [old["unused"].entry_id],
            },
        ]
        cache("gc", "--dry-run")
        living, stopped, total = cache.out.splitlines()
    assert living.startswith(f"A run of 'demo' by {process} keeps 0 entries that no finished run needs; ")
    assert stopped.startswith("A run of 'demo' that did not end keeps 1 entry that no finished run needs; ")
    assert stopped.endswith(f": rm -r {folder / 'unfinished' / 'stopped'}")
    assert total.startswith("0 B to be freed in ")
    shutil.rmtree(folder / "unfinished" / "stopped")
    assert [item["entry"] for item in cache.json("gc")["removed"]] == [old["unused"].entry_id]


def test_a_data_set_and_settings_that_are_gone_do_not_matter(cache: Cache, old: dict[str, Entry]) -> None:
    """What an experiment refers to is what its run has noted, and is not worked out again."""
    (cache.home / "runs" / "demo" / "config.resolved.yaml").write_text("settings: [of, another, release]\ndata: /gone\n")
    assert [item["entry"] for item in cache.json("gc")["removed"]] == [old["unused"].entry_id]


def test_nothing_goes_where_a_writer_lives(cache: Cache, old: dict[str, Entry], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    home = old["unused"].folder.parent
    with Lease(home / "20200101T000000000000-00000000.lease"):
        assert cache.json("gc", "--min-age", "0")["removed"] == []
        assert f"{old['unused'].entry_id} is left alone: process " in caplog.text
    assert [item["entry"] for item in cache.json("gc", "--min-age", "0")["removed"]] == [old["unused"].entry_id]


def test_what_dead_writers_left_goes(cache: Cache, old: dict[str, Entry]) -> None:
    home = old["train"].folder.parent
    (home / "20200101T000000000000-00000000").make_folder()
    local(home / "20200101T000000000000-00000000" / "half").write_bytes(b"123")
    local(home / "20200101T000000000000-11111111.lease").write_text("{}")
    local(home / "manifest.json.damaged-12345678").write_text("{")
    grow_old(local(home), 25)
    known = cache.json("gc")
    assert sorted((item["what"], item["size"]) for item in known["removed"] if item["entry"] == old["train"].entry_id) == [
        ("damaged manifest", 1),
        ("lease", 2),
        ("unfinished work", 3),
    ]
    assert {path.name for path in local(home).iterdir()} == {"manifest.json", old["train"].folder.name}


def test_what_was_removed_before_an_error_is_told(cache: Cache, old: dict[str, Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(cache.home / "runs")
    first, second, *_ = (item["entry"] for item in cache.json("gc", "--dry-run")["removed"])
    real = shutil.rmtree

    def fails_later(path: LocalPath, ignore_errors: bool = False) -> None:
        if path.parent.name != second.partition("/")[2]:
            real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr("shutil.rmtree", fails_later)
    assert cache("gc") == USER_MISTAKE
    assert [line.split()[0] for line in cache.out.splitlines()[1:2]] == [first]
    assert second not in cache.out
    assert "cannot be removed" in cache.err


def test_a_run_that_begins_during_gc_keeps_what_it_finds(
    cache: Cache, old: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cache.home / "runs")
    entry_ids = [item["entry"] for item in cache.json("gc", "--dry-run")["removed"]]
    real = garbage.remove

    def begins(store: Store, item: garbage.Garbage, is_used: Callable[[], bool]) -> bool:
        if item.entry_id == entry_ids[0]:
            refer(cache.home / "runs" / "new", "now", entry_ids[2:])
        return real(store, item, is_used)

    monkeypatch.setattr(gc_command, "remove", begins)
    assert [item["entry"] for item in cache.json("gc")["removed"]] == entry_ids[:2]
    assert _there(cache) == set(entry_ids[2:])


def test_an_entry_that_may_not_be_removed_is_told_beside_what_was(
    cache: Cache, old: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cache.home / "runs")
    first, second, *_ = (item["entry"] for item in cache.json("gc", "--dry-run")["removed"])
    manifest = cache.home / "store" / second / "manifest.json"
    moves = Path.replace

    def not_allowed(path: LocalPath, target: Path) -> LocalPath:
        if path == manifest:
            raise PermissionError(13, "Permission denied", str(path))
        return moves(path, target)

    monkeypatch.setattr(Path, "replace", not_allowed)
    assert cache("gc") == USER_MISTAKE
    assert [line.split()[0] for line in cache.out.splitlines()[1:2]] == [first]
    assert f"{second} stays: {manifest} cannot be removed (Permission denied)" in cache.err
    assert manifest.exists()


def test_a_folder_that_this_user_may_not_enter_is_left_alone(
    cache: Cache, old: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this user everything is allowed, perhaps: the system's answer to another one is given here."""
    closed = old["unused"].folder.parent
    for name in ("iterdir", "exists", "read_bytes"):
        monkeypatch.setattr(Path, name, _not_allowed_below(closed, getattr(Path, name)))
    assert cache.json("gc", "--min-age", "0")["removed"] == []
    assert cache.json("gc")["left"] == {old["unused"].entry_id: f"{closed} cannot be read (Permission denied)"}
    assert cache("ls") == DONE
    assert cache.json("ls")["unreadable"] == {
        old["unused"].entry_id: f"{closed}/manifest.json cannot be read (Permission denied)"
    }
    assert cache("verify", old["student"].key) == DONE
    found = cache.json("verify")["damaged"]
    assert (
        found[old["unused"].entry_id]["next"] == f"python -m pipeline.cache verify {old['unused'].entry_id} --home {cache.home}"
    )


def _not_allowed_below(closed: StorePath, real: Callable[..., object]) -> Callable[..., object]:
    def looks(path: LocalPath, *arguments: object) -> object:
        if path == closed or path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    return looks
