"""The command line without the work: what it refuses, and which files a finished or interrupted run leaves."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from pipeline import cluster, graph
from pipeline.cli import DONE, FAILED, USER_MISTAKE, exit_status
from pipeline.config.load import load_settings
from pipeline.experiments import experiments
from pipeline.run import build_parser, main
from stages import teachers
from stages.base import Context, StageName, Step
from stages.prepare import stage as prepare
from stages.report import stage as report
from stages.targets import stage as targets
from storage_schemas.errors import ClusterError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.buckets import local
from tests.support.step_samples import leave_entry


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ODKD_HOME", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "disconnect", lambda: None)


def _check_error(capsys: pytest.CaptureFixture[str], error: str, value: str) -> None:
    """One error of this type was printed, and its first line names the value."""
    kind, _, rest = capsys.readouterr().err.partition(": ")
    assert (kind, value in rest.splitlines()[0]) == (error, True), rest


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "value"),
    [
        (["--home", ""], "StoreError", "--home"),
        (["--upstream", ""], "StoreError", "--upstream"),
        (["--name", ""], "ConfigError", "--name"),
        (["--config", ""], "ConfigError", "''"),
        (["--home", "~nosuchuser/x"], "StoreError", "~nosuchuser/x"),
        (["--config", "~nosuchuser/x"], "ConfigError", "~nosuchuser/x"),
    ],
)
def test_an_empty_name_is_refused_and_not_replaced_by_a_default(
    tmp_path: LocalPath,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    error: str,
    value: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--stage", "prepare", "--dry-run", *options]) == USER_MISTAKE
    _check_error(capsys, error, value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_odkd_home_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ODKD_HOME", "")
    assert main(["--stage", "prepare", "--dry-run"]) == USER_MISTAKE
    _check_error(capsys, "StoreError", "ODKD_HOME")


@pytest.mark.parametrize("stage", ["evaluate", "report"])
def test_a_stage_without_its_inputs_is_refused_and_leaves_no_trace(
    tmp_path: LocalPath, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    home = tmp_path / "new" / "home"
    assert main(["--stage", stage, "--home", str(home)]) == USER_MISTAKE
    assert f"  Next:    python -m pipeline.run --home {home} --stage prepare\n" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_forcing_all_stages_is_refused_and_one_stage_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--home", "/nowhere", "--set", "views.count=3"]
    assert main(["--stage", "all", "--force", *options]) == USER_MISTAKE
    command = capsys.readouterr().err.partition("  Next:    python -m pipeline.run ")[2].rstrip()
    assert command == "--home /nowhere --set views.count=3 --stage distill --force"


def test_keys_to_force_may_be_given_one_by_one() -> None:
    parse = build_parser().parse_args
    assert parse(["--stage", "teachers", "--force", "a", "--force", "b", "c"]).force == ["a", "b", "c"]
    assert parse(["--stage", "teachers", "--force"]).force == []
    assert parse(["--stage", "teachers"]).force is None


# Logging


def test_matplotlib_does_not_log_that_it_lists_fonts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    main(["--stage", "prepare", "--name", ""])
    fonts = logging.getLogger("matplotlib.font_manager")
    fonts.info("generated new fontManager")
    fonts.warning("Font family 'x' not found")
    assert [record.message for record in caplog.records if record.name == fonts.name] == ["Font family 'x' not found"]


# A dry run


@pytest.mark.parametrize("words", ["run --stage all --dry-run --home", "cache ls --home", "config"])
def test_a_reader_may_close_the_pipe_early(tmp_path: LocalPath, words: str) -> None:
    """``head`` does."""
    home = [str(tmp_path)] if words.endswith("--home") else []
    command = [sys.executable, "-m", *f"pipeline.{words}".split(), *home]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "Broken pipe" in done.stderr, "fault" in done.stderr) == (DONE, False, False), done.stderr


def test_a_dry_run_leaves_no_trace(tmp_path: LocalPath, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stage", "all", "--dry-run", "--home", str(tmp_path / "new" / "home")]) == DONE
    assert "prepare   miss   train instances" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/home"])
def test_a_dry_run_refuses_a_home_that_cannot_be_created(
    tmp_path: LocalPath, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--stage", "all", "--dry-run", "--home", str(tmp_path / below)]) == USER_MISTAKE
    _check_error(capsys, "StoreError", str(tmp_path / below))


# What a run leaves


@pytest.fixture
def run(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a stage whose work takes the given seconds, or raises the given error; None: there is no work."""

    def make(seconds: float | BaseException | None) -> Callable[..., float | None]:
        def made(context: Context, stage: StageName, *, force: object, connect: Callable[[], None]) -> float | None:
            if isinstance(seconds, BaseException):
                raise seconds
            return seconds

        return made

    def ran(stage: str, seconds: float | BaseException | None, *options: str) -> int:
        monkeypatch.setattr(graph, "check", lambda *_: None)
        monkeypatch.setattr(graph, "make_stage", make(seconds))
        return main(["--stage", stage, "--home", str(tmp_path), *options])

    return ran


def _left(home: LocalPath) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Read the settings that a run left, and the seconds of its stages."""
    folder = home / "runs" / "demo"
    metrics = folder / "metrics.json"
    seconds = json.loads(metrics.read_text())["seconds"] if metrics.exists() else None
    return yaml.safe_load((folder / "config.resolved.yaml").read_text()), seconds


def test_sigterm_ends_a_command_as_ctrl_c_does_and_its_handler_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for stop in (lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: sys.exit(signal.SIGTERM)):
        assert exit_status(stop, interrupted="all is kept") == FAILED
        assert capsys.readouterr().err == "Interrupted: all is kept.\n"
        assert signal.getsignal(signal.SIGTERM) == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(exit_status, lambda: None, interrupted="").result() == DONE


def test_a_run_leaves_its_settings_and_figures(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    assert run("prepare", 3.0, "--set", "views.count=7") == DONE
    settings, seconds = _left(tmp_path)
    assert (settings["views"]["count"], seconds) == (7, {"prepare": 3.0})


def test_an_interrupted_run_keeps_the_settings_that_belong_to_the_figures(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    assert run("prepare", 3.0, "--set", "views.count=7") == DONE
    before = _left(tmp_path)
    for error, status in ((KeyboardInterrupt(), FAILED), (ClusterError("gone"), USER_MISTAKE)):
        assert run("prepare", error, "--set", "views.count=8") == status
        assert _left(tmp_path) == before
    assert run("prepare", 4.0, "--set", "views.count=8") == DONE
    settings, seconds = _left(tmp_path)
    assert (settings["views"]["count"], seconds) == (8, {"prepare": 4.0})


def test_a_first_run_leaves_its_settings_even_when_it_is_interrupted(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    for count in (7, 8):
        assert run("prepare", ClusterError("gone"), "--set", f"views.count={count}") == USER_MISTAKE
        settings, seconds = _left(tmp_path)
        assert (settings["views"]["count"], seconds) == (count, None)


def test_the_seconds_of_other_stages_stay_while_the_settings_do(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    assert run("evaluate", 5.0) == DONE
    assert run("prepare", 3.0) == DONE
    assert _left(tmp_path)[1] == {"prepare": 3.0, "evaluate": 5.0}
    assert list(_left(tmp_path)[1] or ()) == ["prepare", "evaluate"], "in the order of the stages"
    assert run("prepare", 4.0) == DONE
    assert run("prepare", None) == DONE
    assert _left(tmp_path)[1] == {"prepare": 4.0, "evaluate": 5.0}
    assert run("prepare", 6.0, "--set", "views.count=7") == DONE
    assert _left(tmp_path)[1] == {"prepare": 6.0}, "figures of other settings are dropped"


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"seconds": 3}', "\\xff"])
def test_unreadable_figures_are_replaced(tmp_path: LocalPath, run: Callable[..., int], damaged: str) -> None:
    assert run("evaluate", 5.0) == DONE
    (tmp_path / "runs" / "demo" / "metrics.json").write_text(damaged)
    assert run("prepare", 3.0) == DONE
    assert _left(tmp_path)[1] == {"prepare": 3.0}


def _referred(home: LocalPath) -> set[str]:
    (experiment,) = experiments(home)
    assert experiment.problem == ""
    return set(experiment.entry_ids)


@pytest.mark.parametrize("name", ["config.resolved.yaml", "metrics.json", "report.html"])
def test_a_folder_in_the_place_of_a_result_is_refused_before_any_work(
    tmp_path: LocalPath, run: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "runs" / "demo" / name
    path.mkdir(parents=True)
    assert run("prepare", 3.0) == USER_MISTAKE
    _check_error(capsys, "StoreError", str(path))
    assert {each.name for each in path.parent.iterdir()} == {name}
    path.rmdir()
    assert run("prepare", 3.0) == DONE


@pytest.mark.parametrize("where", ["runs", "runs/demo", "runs/demo/unfinished"])
def test_a_file_in_the_place_of_an_experiments_folder_is_refused(
    tmp_path: LocalPath, run: Callable[..., int], capsys: pytest.CaptureFixture[str], where: str
) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a file")
    assert run("prepare", 3.0) == USER_MISTAKE
    _check_error(capsys, "StoreError", str(path))
    path.unlink()
    assert run("prepare", 3.0) == DONE


def test_an_interrupted_run_records_the_entries_it_needs_until_a_run_ends(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    def instances(**changes: str) -> set[str]:
        settings = load_settings(None, [f"{name.replace('__', '.')}={value}" for name, value in changes.items()])
        return {step.entry_id for step in prepare.steps(Context(settings, tmp_path, "cpu"))}

    assert run("all", KeyboardInterrupt()) == FAILED
    assert _referred(tmp_path) == instances()
    smaller = ("--set", "crop.size_wh=[64, 64]")
    assert run("all", KeyboardInterrupt(), *smaller) == FAILED
    assert _referred(tmp_path) == instances() | instances(crop__size_wh="[64, 64]")
    assert run("prepare", 3.0) == DONE
    assert _referred(tmp_path) == instances(crop__size_wh="[64, 64]"), "entries of other settings may still be needed"
    assert run("prepare", 3.0, *smaller) == DONE
    assert not (tmp_path / "runs" / "demo" / "unfinished").exists()
    assert _referred(tmp_path) == set(), "nothing was committed"


def test_a_run_records_the_entries_of_earlier_stages_too(tmp_path: LocalPath, run: Callable[..., int]) -> None:
    context = Context(load_settings(None), tmp_path, "cpu")
    for step in prepare.steps(context):
        leave_entry(context, step, content="people")
    assert run("targets", KeyboardInterrupt()) == FAILED
    expected = [*prepare.steps(context), teachers.teacher_step(context, "primary"), *targets.steps(context)]
    assert _referred(tmp_path) == {step.entry_id for step in expected if not step.waits_for}
    assert len(_referred(tmp_path)) == 9, "two tables, the primary, and six views; the keys of other steps are not known yet"


def test_figures_include_the_report(tmp_path: LocalPath, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("report", "reports", "report", {"of": "everything"})
    with Context(load_settings(None), tmp_path, "cpu").store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        local(draft.folder / "report.html").write_text("")
        draft.commit(["report.html"], measured={})
    monkeypatch.setattr(report, "steps", lambda _: [step])
    assert run("report", None) == DONE
    assert _referred(tmp_path) == {step.entry_id}


def test_figures_never_lie_beside_other_settings(
    tmp_path: LocalPath, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is interrupted between writing the two files."""
    assert run("prepare", 3.0, "--set", "views.count=7") == DONE

    write = LocalPath.write_atomic

    def die(path: LocalPath, data: bytes, **options: bool) -> None:
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        write(path, data, **options)

    monkeypatch.setattr(LocalPath, "write_atomic", die)
    assert run("prepare", 4.0, "--set", "views.count=8") == FAILED
    settings, seconds = _left(tmp_path)
    assert (settings["views"]["count"], seconds) == (8, None)


def test_the_cluster_is_checked_once_for_all_connects_of_a_run(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("connect", "check_resources", "check_home"):
        monkeypatch.setattr(cluster, name, lambda *_, name=name: seen.append(name))

    def made(context: Context, stage: StageName, *, force: object, connect: Callable[[], None]) -> float:
        connect()
        connect()
        return 1.0

    monkeypatch.setattr(graph, "make_stage", made)
    assert main(["--stage", "prepare", "--home", str(tmp_path)]) == DONE
    assert seen == ["connect", "check_resources", "check_home"]
