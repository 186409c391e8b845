"""The folders of experiments: which entries each refers to, finished or not, and what is not understood."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pipeline import experiments as module
from pipeline.experiments import Experiment, Run, experiments, leave, noting, refer
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local


def _left(home: LocalPath, name: str, **files: object) -> LocalPath:
    """The folder of an experiment with these files: text, or what is written as JSON; the name's last _ is a dot."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def _interrupted(folder: LocalPath, run: str, *entry_ids: str, settings: str = "name: a\n") -> None:
    """A run that noted ``entry_ids`` and then failed."""
    with suppress(KeyboardInterrupt), noting(folder, run, settings):
        refer(folder, run, entry_ids)
        raise KeyboardInterrupt


def _noted(home: LocalPath) -> set[str]:
    (found,) = experiments(home)
    assert found.problem == ""
    return set(found.entry_ids)


def _notes(folder: LocalPath) -> set[str]:
    return {path.name for path in (folder / "unfinished").glob("*")}


def test_a_finished_experiment_refers_to_the_entries_of_its_figures(tmp_path: LocalPath) -> None:
    figures = {"entries": {"student": "students/1", "view": "views/2"}, "seconds": {}}
    folder = _left(tmp_path, "b", metrics_json=figures, config_resolved_yaml="name: b\n")
    _left(tmp_path, "a", metrics_json={"entries": {}})
    run = Run("b", folder, frozenset({"students/1", "views/2"}))
    assert experiments(tmp_path) == [Experiment("a"), Experiment("b", (run,))]
    assert experiments(tmp_path)[1].entry_ids == {"students/1", "views/2"}


def test_without_experiments_there_are_none(tmp_path: LocalPath) -> None:
    assert experiments(tmp_path) == []
    _left(tmp_path, "only_events")
    (tmp_path / "runs" / "a file").write_text("")
    assert experiments(tmp_path) == [Experiment("only_events")]


def test_a_run_in_progress_refers_to_what_it_noted_beside_what_the_last_one_left(tmp_path: LocalPath) -> None:
    folder = _left(tmp_path, "a", metrics_json={"entries": {"student": "students/1"}})
    with noting(folder, "now", "name: a\n"):
        refer(folder, "now", ["views/2", "targets/3"])
        refer(folder, "now", ["targets/3", "targets/4"])
        assert _noted(tmp_path) == {"students/1", "views/2", "targets/3", "targets/4"}
        assert experiments(tmp_path)[0].runs[1].holder == f"process {os.getpid()} on {os.uname().nodename}"
    assert _noted(tmp_path) == {"students/1"}
    assert {path.name for path in folder.iterdir()} == {"metrics.json"}, "its end leaves nothing"


def _figures(*entry_ids: str) -> dict[str, dict[str, str]]:
    return {"entries": {f"the {entry_id}": entry_id for entry_id in entry_ids}}


def test_what_earlier_figures_named_stays_named_until_a_run_has_found_everything(tmp_path: LocalPath) -> None:
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    assert leave(folder, "1", "of: old\n", _figures("instances/1", "teachers/2", "targets/3"), is_whole=True) == 0
    for run in ("2", "3"):
        assert leave(folder, run, "of: old\n", _figures("instances/1"), is_whole=False) == 2
    with noting(folder, "4", "of: new\n"):
        assert leave(folder, "4", "of: new\n", _figures("instances/4", "targets/3"), is_whole=False) == 2
    (left,) = experiments(tmp_path)[0].runs
    assert left.entry_ids == {"instances/1", "teachers/2", "targets/3", "instances/4"}
    assert left.earlier == {"instances/1", "teachers/2"}
    assert leave(folder, "5", "of: new\n", _figures("instances/4", "teachers/5"), is_whole=True) == 0
    assert _noted(tmp_path) == {"instances/4", "teachers/5"}
    assert {path.name for path in folder.iterdir()} >= {"config.resolved.yaml", "metrics.json"}


def test_figures_that_this_user_may_not_read_are_not_written_over(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _left(tmp_path, "a", metrics_json={"entries": ["students/1"]})
    before = (folder / "metrics.json").read_text()
    monkeypatch.setattr(Path, "read_bytes", _refuse)
    with pytest.raises(PermissionError):
        leave(folder, "2", "of: new\n", _figures("instances/4"), is_whole=False)
    assert (folder / "metrics.json").read_text() == before


def _refuse(_: Path) -> bytes:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("died_at", range(1, 5))
def test_a_run_killed_as_it_leaves_its_figures_takes_no_reference_away(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, died_at: int
) -> None:
    """At its notes, as the old figures go, at the settings, and at the new figures."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    leave(folder, "1", "of: old\n", _figures("instances/1", "targets/3"), is_whole=True)
    written: list[LocalPath] = []
    write = LocalPath.write_atomic

    def dying(path: LocalPath, data: bytes, *, durable: bool = True) -> None:
        written.append(path)
        if len(written) == died_at:
            raise KeyboardInterrupt
        write(path, data)

    def dying_too(path: LocalPath, *, missing_ok: bool) -> None:
        if path.name == "metrics.json":
            written.append(path)
            if len(written) == died_at:
                raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    unlink = Path.unlink
    with suppress(KeyboardInterrupt), noting(folder, "2", "of: new\n"):
        refer(folder, "2", ["instances/4"])
        monkeypatch.setattr(LocalPath, "write_atomic", dying)
        monkeypatch.setattr(Path, "unlink", dying_too)
        leave(folder, "2", "of: new\n", _figures("instances/4"), is_whole=False)
    assert len(written) == died_at, "it was killed there"
    assert _noted(tmp_path) == {"instances/1", "targets/3", "instances/4"}


def test_a_run_notes_its_own_settings_whatever_the_figures_are_of(tmp_path: LocalPath) -> None:
    folder = _left(tmp_path, "a", metrics_json={"entries": ["students/1"]})
    (folder / "config.resolved.yaml").write_text("of: the figures\n")
    _interrupted(folder, "now", "views/2", settings="of: this run\n")
    settings = {local(run.config).read_text(): run.entry_ids for run in experiments(tmp_path)[0].runs if run.config}
    assert settings == {"of: the figures\n": {"students/1"}, "of: this run\n": {"views/2"}}


def test_two_runs_of_one_name_do_not_touch_each_others_notes(tmp_path: LocalPath) -> None:
    folder = tmp_path / "runs" / "a"
    with noting(folder, "one", "name: a\n"):
        refer(folder, "one", ["views/1"])
        with noting(folder, "two", "name: a\n"):
            refer(folder, "two", ["views/1", "views/2"])
            assert _noted(tmp_path) == {"views/1", "views/2"}
        assert _noted(tmp_path) == {"views/1"}, "what the one in progress needs stays, although the other had all of it"


def test_what_an_interrupted_run_needs_stays_when_another_stage_of_that_name_ends(tmp_path: LocalPath) -> None:
    folder = tmp_path / "runs" / "a"
    _interrupted(folder, "distill", "instances/1", "targets/2", "students/3")
    with noting(folder, "prepare", "name: a\n"):
        refer(folder, "prepare", ["instances/1"])
    assert _noted(tmp_path) == {"instances/1", "targets/2", "students/3"}
    with noting(folder, "other", "lr: 2\n"):
        refer(folder, "other", ["instances/1", "targets/2", "students/4"])
    assert _noted(tmp_path) == {"instances/1", "targets/2", "students/3"}


def test_notes_of_a_run_that_is_gone_go_when_a_later_one_has_noted_all_of_it(tmp_path: LocalPath) -> None:
    folder = tmp_path / "runs" / "a"
    _interrupted(folder, "first", "instances/1", "students/3")
    with ExitStack() as later:
        later.enter_context(noting(folder, "again", "name: a\n"))
        refer(folder, "again", ["instances/1"])
        assert _notes(folder) == {"first", "again"}
        refer(folder, "again", ["students/3", "evaluations/4"])
        assert _notes(folder) == {"again"}
        assert _noted(tmp_path) == {"instances/1", "students/3", "evaluations/4"}
        # One that begins just now has its folder, and neither a lease nor entries yet.
        (folder / "unfinished" / "begins").mkdir()
        refer(folder, "again", ["reports/5"])
        assert _notes(folder) == {"again", "begins"}


@pytest.mark.parametrize("killed", [True, False])
def test_a_run_that_is_killed_is_gone_and_one_that_lives_is_not(tmp_path: LocalPath, killed: bool) -> None:
    folder = tmp_path / "runs" / "a"
    code = (
        "import sys; from storage_schemas.paths.local import LocalPath; from pipeline.experiments import noting, refer\n"
        "with noting(LocalPath(sys.argv[1]), 'theirs', 'name: a'):\n"
        "    refer(LocalPath(sys.argv[1]), 'theirs', ['views/1'])\n"
        "    print('noted', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        if killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
        refer(folder, "ours", ["views/1", "views/2"])
        assert _notes(folder) == ({"ours"} if killed else {"ours", "theirs"})
        if not killed:
            process.communicate("")


def test_notes_that_are_taken_over_while_they_are_read_are_read_where_they_went(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "a"
    _interrupted(folder, "first", "views/1")
    real = module._noted

    def entry_ids(path: LocalPath) -> set[str]:
        if path.parent.name == "first" and not (folder / "unfinished" / "later").exists():
            # Between the list of the folder and the reading of the file.
            monkeypatch.setattr(module, "_noted", real)
            refer(folder, "later", ["views/1", "views/2"])
            monkeypatch.setattr(module, "_noted", entry_ids)
        return real(path)

    monkeypatch.setattr(module, "_noted", entry_ids)
    assert _noted(tmp_path) == {"views/1", "views/2"}
    assert _notes(folder) == {"later"}


def test_nothing_is_written_where_nothing_is_new(tmp_path: LocalPath) -> None:
    folder = tmp_path / "runs" / "a"
    refer(folder, "now", ["views/2"])
    (notes,) = (folder / "unfinished").glob("*/entries.json")
    before = notes.stat().st_ino
    refer(folder, "now", ["views/2"])
    assert notes.stat().st_ino == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"seconds": {}}', '{"entries": 3}', '{"entries": [3]}', "[" * 100_000]
)
def test_a_file_that_names_no_entries_is_a_problem_and_not_an_empty_list(tmp_path: LocalPath, text: str) -> None:
    figures = _left(tmp_path, "a", metrics_json=text)
    notes = _left(tmp_path, "b") / "unfinished" / "x"
    notes.mkdir(parents=True)
    (notes / "entries.json").write_text(text)
    first, second = experiments(tmp_path)
    assert first.entry_ids == second.entry_ids == frozenset()
    assert "metrics.json names no entries" in first.problem
    assert "unfinished/x/entries.json names no entries" in second.problem
    assert (first.spoilt, second.spoilt) == (figures, notes)
    refer(notes.parents[1], "later", ["views/1"])
    assert experiments(tmp_path)[1].problem == second.problem, "what it needed is not known, and nobody takes it over"


def test_what_cannot_be_opened_is_a_problem(tmp_path: LocalPath) -> None:
    (_left(tmp_path, "a") / "metrics.json").mkdir()
    assert "metrics.json cannot be read (Is a directory)" in experiments(tmp_path)[0].problem


def test_settings_alone_say_nothing_sure(tmp_path: LocalPath) -> None:
    folder = _left(tmp_path, "a")
    (folder / "config.resolved.yaml").write_text("name: a")
    assert "neither metrics.json nor notes in unfinished" in experiments(tmp_path)[0].problem
    refer(folder, "now", ["views/2"])
    assert _noted(tmp_path) == {"views/2"}
