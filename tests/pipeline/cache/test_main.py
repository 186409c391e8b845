"""``python -m pipeline.cache``: what all commands share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cache.__main__ import main
from pipeline.cli import DONE, FAILED, USER_MISTAKE
from storage_schemas.store.store import Entry
from tests.support.cache_samples import Cache


def test_an_unknown_kind_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ls", "target"])
    assert caught.value.code == 2
    assert "'targets'" in capsys.readouterr().err


@pytest.mark.parametrize("home", ["relative", "s3://bucket", "s3:///bucket/home", "s3://bucket/../home", ""])
def test_a_home_is_refused_as_pipeline_run_refuses_it(capsys: pytest.CaptureFixture[str], home: str) -> None:
    assert main(["ls", "--home", home]) == USER_MISTAKE
    assert capsys.readouterr().err.startswith("StoreError: ")


def test_a_home_without_a_store_is_empty_and_warned_of(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    for words in (["ls"], ["verify"], ["gc", "--dry-run"]):
        caplog.clear()
        assert cache(*words) == DONE
        assert f"There is no store in {cache.home}: nothing was made there yet, or another --home is meant" in caplog.text


def test_options_may_stand_before_the_command(cache: Cache, made: dict[str, Entry], capsys: pytest.CaptureFixture[str]) -> None:
    told = cache.json("ls")
    assert main(["--json", "--home", str(cache.home), "ls"]) == DONE
    assert json.loads(capsys.readouterr().out) == told
    assert main(["--home", "relative", "ls", "--home", str(cache.home)]) == DONE


def test_without_a_command_those_that_there_are_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == USER_MISTAKE
    said = capsys.readouterr().err
    assert all(f"    {name} " in said for name in ("ls", "show", "verify", "repair", "diff", "gc", "drop", "export", "import"))


def test_a_reader_that_has_seen_enough_is_no_error(made: dict[str, Entry], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cache", "ls", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == DONE


def test_a_list_is_not_kept_waiting_for_what_only_stages_need(made: dict[str, Entry], tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.cache.__main__ import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'ray', 'zarr', 'numpy', 'pydantic', 'rich', 'yaml') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "ls", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_stopping_a_command_says_how_things_stand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cache.inspect.take_inventory", stop)
    assert main(["ls", "--home", str(tmp_path)]) == FAILED
    assert capsys.readouterr().err.startswith("Interrupted: ")
