"""The documents: every command, option, setting, preset and target that they name exists."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import cv2
import numpy as np
import pytest
from pydantic import BaseModel
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start

from pipeline.bench.__main__ import build_parser as build_bench_parser
from pipeline.cache.__main__ import build_parser as cache_parser
from pipeline.config.load import load_settings, preset_names
from pipeline.run import build_parser
from stages.networks.spec import NetworkSpec, load_network
from stages.settings import Settings
from storage_schemas.formats.checkpoints import save_weights

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = {path.name: path.read_text() for path in sorted(ROOT.glob("*.md"))}
COMMANDS_IN = [
    *DOCUMENTS.values(),
    *(path.read_text() for path in (*ROOT.glob("*.yaml"), *ROOT.glob("pipeline/config/presets/*.yaml"))),
]
FILE_ENDINGS = {"json", "jsonl", "html", "md", "onnx", "png", "pt2", "pth", "py", "safetensors", "toml", "txt", "yaml"}
MODULES = {"pipeline", "stages", "storage_schemas", "torch"}

TEACHERS = re.findall(r"\| `(\{weights.*\})` \|", README)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def _commands(program: str) -> list[str]:
    """Every mention of ``program`` with its arguments, in code blocks, in backticks and in the comments of YAML files."""
    return [found.strip() for text in COMMANDS_IN for found in re.findall(rf"{program}\b[^`#\n]*", text)]


def _dotted_names(section: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{before}{name}"
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _dotted_names(inner, f"{before}{name}.")


SETTINGS = set(_dotted_names(Settings))


def _missing_settings(text: str) -> list[str]:
    words = re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)*\.(?:[a-z0-9_]+|\*))`", text)
    names = [word for word in words if word.split(".")[-1] not in FILE_ENDINGS and word.split(".")[0] not in MODULES]
    return [name for name in names if name.removesuffix(".*") not in SETTINGS]


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.run"))
def test_every_pipeline_command_is_one_that_the_program_takes(command: str) -> None:
    if command == "python -m pipeline.run":
        return
    options = build_parser().parse_args(shlex.split(command)[3:])
    assert options.config is None or options.config in preset_names() or options.config.endswith(".yaml")
    for override in options.set:
        assert override.partition("=")[0] in SETTINGS


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.cache"))
def test_every_cache_command_is_one_that_the_program_takes(command: str) -> None:
    words = shlex.split(command)[3:]
    assert not words or cache_parser().parse_args(words).command == words[0]


def test_the_table_of_cache_commands_has_all_of_them_with_their_options() -> None:
    table = README.partition("## The cache")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z]+) ?([^`]*)` \|", table, flags=re.MULTILINE))
    (commands,) = [action.choices for action in cache_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(rows) == set(commands)
    for name, parser in commands.items():
        options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
        assert set(re.findall(r"--[a-z-]+", rows[name])) == options - {"--help", "--home", "--json"}


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.bench"))
def test_every_benchmark_command_is_one_that_the_program_takes(command: str) -> None:
    assert build_bench_parser().parse_args(shlex.split(command)[3:]).bench == "cache"


def test_there_is_something_to_check() -> None:
    assert len(_commands(r"python -m pipeline\.bench")) >= 3
    assert len(_commands(r"python -m pipeline\.run")) >= 5
    assert len(_commands(r"python -m pipeline\.cache")) >= 5
    assert len(_blocks("yaml")) == README.count("```yaml") >= 2
    assert len(TEACHERS) == 4


@pytest.mark.parametrize(("program", "command"), [("ray start", start), ("ray job submit", submit)])
def test_every_ray_command_has_only_options_that_ray_takes(program: str, command: click.Command) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    given = [shlex.split(line.partition(" -- ")[0]) for line in _commands(program)]
    assert given
    for words in given:
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def _load(text: str, folder: Path) -> Settings:
    path = folder / "my.yaml"
    path.write_text(text)
    return load_settings(str(path))


@pytest.fixture
def _coco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCO_ROOT", "/data/coco")
    monkeypatch.setenv("ODKD_WEIGHTS", "/data/weights")


@pytest.mark.usefixtures("_coco")
@pytest.mark.parametrize("block", _blocks("yaml"))
def test_every_yaml_block_of_the_readme_is_a_valid_configuration(block: str, tmp_path: Path) -> None:
    assert _load(block, tmp_path).name == "my"


@pytest.mark.usefixtures("_coco")
@pytest.mark.parametrize("cell", TEACHERS)
def test_every_way_to_give_a_teacher_is_a_valid_configuration(cell: str, tmp_path: Path) -> None:
    # The senior of an ONNX primary has a base of its own, as the README says below the table.
    senior = "{base: {weights: /models/teacher.pt2}}" if ".onnx" in cell else "{}"
    teachers = f"{{primary: {cell.replace('FILE', '/models/teacher')}, senior: {senior}}}"
    settings = _load(f"preset: coco_hrnet_w16\nteachers: {teachers}\n", tmp_path)
    assert (settings.teachers.primary.weights is not None) == ("FILE" in cell)


def test_the_way_to_use_a_student_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = _blocks("python")
    settings = load_settings("demo")
    assert f"size_wh = {settings.crop.size_wh}" in block
    assert settings.distill.size_divisor == 1
    save_weights(tmp_path / "weights.safetensors", load_network(NetworkSpec(settings.distill.network), size_wh=(96, 128)), {})
    run = tmp_path / ".odkd" / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"weights": str(tmp_path / "weights.safetensors")}))
    cv2.imwrite(str(tmp_path / "person.jpg"), np.full((300, 200, 3), 128, np.uint8))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["keypoints"].shape == (17, 2)
    assert np.isfinite(names["keypoints"]).all()
    assert names["scores"].shape == (1, 17)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_dotted_setting_in_backticks_exists(name: str) -> None:
    assert _missing_settings(DOCUMENTS[name]) == []


def test_a_setting_that_does_not_exist_is_noticed() -> None:
    assert _missing_settings("`distil.epochs` `views.count` `distill.*` `views.cuont`") == ["distil.epochs", "views.cuont"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_and_every_linked_file_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", DOCUMENTS[name])) <= targets
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCUMENTS[name])
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_documents_are_plain_ascii() -> None:
    for name, text in DOCUMENTS.items():
        assert text.isascii(), name
