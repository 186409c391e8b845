"""The command: refused options, and a smoke run that measures every part and leaves no temporary files."""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.bench.__main__ import main
from pipeline.bench.scale import PARTS
from tests.support.warm_ray import run_here


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "steps", "--entry", "beef"], "ConfigError: --entry is for part sizes"),
        (["--part", "steps", "--annotations", "a.json", "b"], "ConfigError: --annotations is for part crops"),
        (["--part", "crops", "--annotations", "/nowhere.json", "/nowhere"], "DataError: "),
        (["--home", "/nowhere"], "ConfigError: --home is given without --entry"),
        (["--entry", "beef", "--home", "/nowhere"], "ConfigError: No entry in /nowhere/store has a key that begins with"),
        (["--out", "/proc/nowhere"], "StoreError: The folder /proc/nowhere cannot be written"),
        (["--out", "/proc"], "StoreError: The folder /proc cannot be written"),
    ],
)
def test_wrong_options_are_refused_before_the_first_measurement(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cache", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_of_an_earlier_run_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.json").write_text("{}")
    assert main(["cache", "--quick", "--part", "sizes", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert f"StoreError: {tmp_path} holds the bench.json of an earlier run" in printed
    assert "--out DIR" in printed
    assert (tmp_path / "bench.json").read_text() == "{}"


@pytest.mark.slow
def test_a_smoke_run_measures_every_part_and_leaves_figures_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    ran = run_here(main, "cache", "--quick", "--out", str(out))
    assert ran.status == 0, ran.out + ran.err
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "bench.json").read_text())
    assert (found["bench"], found["quick"]) == ("cache", True)
    assert {"at", "processor", "threads", "precision", "versions"} <= set(found["machine"])
    assert found["command"] == f"python -m pipeline.bench cache --quick --out {out}"
    assert found["odkd"]["version"] == metadata.version("odkd")
    assert found["scale"]["crop_wh"] == [64, 64]
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts) == ["sizes", "reading", "steps", "steps online", "filling", "crops", "store"]
    assert set(PARTS) <= set(parts)
    rows = [row for part in found["parts"] for row in part["rows"]]
    assert all(row["value"] > 0 for row in rows)
    timed = [row["ratio"] for name in ("reading", "steps", "steps online", "filling", "crops") for row in parts[name]["rows"]]
    assert all(ratio is None or ratio["interval"][0] <= ratio["value"] <= ratio["interval"][1] for ratio in timed)
    # A verdict on a small run means nothing; drawn entries have no requirement.
    judged = {name: sum(row["met"] is not None for row in part["rows"]) for name, part in parts.items()}
    assert judged == {"sizes": 0, "reading": 1, "steps": 2, "steps online": 2, "filling": 2, "crops": 0, "store": 2}
