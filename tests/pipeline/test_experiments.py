"""The folders of experiments: which entries each refers to, finished or not, and what is not understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.experiments import Experiment, end, experiments, refer


def _run(home: Path, name: str, **files: object) -> Path:
    """The folder of an experiment with these files: text, or what is written as JSON; the name's last _ is a dot."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def test_a_finished_experiment_refers_to_the_entries_of_its_figures(tmp_path: Path) -> None:
    _run(tmp_path, "b", metrics_json={"entries": {"student": "students/1", "view": "views/2"}, "seconds": {}})
    _run(tmp_path, "a", metrics_json={"entries": {}})
    assert experiments(tmp_path) == [Experiment("a", frozenset()), Experiment("b", frozenset({"students/1", "views/2"}))]


def test_without_experiments_there_are_none(tmp_path: Path) -> None:
    assert experiments(tmp_path) == []
    _run(tmp_path, "only_events")
    (tmp_path / "runs" / "a file").write_text("")
    assert experiments(tmp_path) == [Experiment("only_events", frozenset())]


def test_a_run_in_progress_refers_to_what_it_noted_beside_what_the_last_one_left(tmp_path: Path) -> None:
    folder = _run(tmp_path, "a", metrics_json={"entries": {"student": "students/1"}})
    refer(folder, ["views/2", "targets/3"])
    refer(folder, ["targets/3", "targets/4"])
    (found,) = experiments(tmp_path)
    assert found.places == {"students/1", "views/2", "targets/3", "targets/4"}
    end(folder)
    (found,) = experiments(tmp_path)
    assert found.places == {"students/1"}
    end(folder)


def test_the_first_run_of_a_name_makes_its_folder(tmp_path: Path) -> None:
    refer(tmp_path / "runs" / "new", ["views/2"])
    assert experiments(tmp_path) == [Experiment("new", frozenset({"views/2"}))]


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    refer(folder, ["views/2"])
    before = (folder / "unfinished.json").stat().st_ino
    refer(folder, ["views/2"])
    assert (folder / "unfinished.json").stat().st_ino == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"seconds": {}}', '{"entries": 3}', '{"entries": [3]}', "[" * 100_000]
)
def test_a_file_that_names_no_entries_is_a_problem_and_not_an_empty_list(tmp_path: Path, text: str) -> None:
    for name, file in (("a", "metrics_json"), ("b", "unfinished_json")):
        _run(tmp_path, name, **{file: text})
    found = experiments(tmp_path)
    assert [experiment.places for experiment in found] == [frozenset()] * 2
    assert "metrics.json names no entries" in found[0].problem
    assert "unfinished.json names no entries" in found[1].problem


def test_what_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    (_run(tmp_path, "a") / "metrics.json").mkdir()
    assert "metrics.json cannot be read (Is a directory)" in experiments(tmp_path)[0].problem


def test_settings_alone_say_nothing_sure(tmp_path: Path) -> None:
    folder = _run(tmp_path, "a", config_resolved_yaml="name: a")
    assert "neither metrics.json nor unfinished.json" in experiments(tmp_path)[0].problem
    refer(folder, ["views/2"])
    assert experiments(tmp_path) == [Experiment("a", frozenset({"views/2"}))]


def test_notes_that_cannot_be_read_are_written_anew(tmp_path: Path) -> None:
    folder = _run(tmp_path, "a", unfinished_json="{")
    refer(folder, ["views/2"])
    assert experiments(tmp_path) == [Experiment("a", frozenset({"views/2"}))]
