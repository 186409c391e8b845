"""The documents: every command, option, setting, preset, file, link and make target that they name exists."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic import BaseModel
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start

from pipeline.bench.__main__ import build_parser as bench_parser
from pipeline.cache.__main__ import build_parser as cache_parser
from pipeline.config.load import load_settings, preset_names
from pipeline.run import build_parser as run_parser
from stages.settings import Settings
from storage_schemas.errors import KINDS
from tests.support.plain_words import UNPLAIN

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md")))}
TEXTS = PAGES | {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.yaml"), *ROOT.glob("pipeline/config/presets/*.yaml"))
}
CODE_ENDINGS = {"json", "jsonl", "html", "md", "py", "svg", "toml", "txt", "yaml", "yml"}
FILE_ENDINGS = CODE_ENDINGS | {"jpg", "onnx", "png", "pt2", "pth", "safetensors", "tar"}
MODULES = {"pipeline", "stages", "storage_schemas", "torch"}
# The changelog says what users of these must do.
REMOVED_OPTIONS = {"--beneath"}
# Of TensorBoard.
FOREIGN_OPTIONS = {"--logdir"}
TEACHERS = re.findall(r"\| `(\{weights.*\})` \|", PAGES["docs/networks.md"])


def _blocks(language: str) -> list[tuple[str, str]]:
    """Every block of code in a language, with the page it is on."""
    pattern = rf"^```{language}\n(.*?)^```"
    return [(page, block) for page, text in PAGES.items() for block in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]


def _commands(program: str) -> list[str]:
    """Every mention of ``program`` with its arguments, in code blocks, in backticks and in the comments of YAML files."""
    return sorted({found.strip() for text in TEXTS.values() for found in re.findall(rf"{program}\b[^`#\n]*", text)})


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a program and of its commands."""
    found = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    return found.union(*(_options(command) for command in _subparsers(parser).values()))


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: command for action in found for name, command in action.choices.items()}


def _ray_options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def _dotted_names(section: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{before}{name}"
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _dotted_names(inner, f"{before}{name}.")


SETTINGS = set(_dotted_names(Settings))


def _missing_settings(text: str) -> list[str]:
    words = re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)*\.(?:[a-z0-9_]+|\*))(?:: [a-z0-9.]+)?`", text)
    names = [word for word in words if word.split(".")[-1] not in FILE_ENDINGS and word.split(".")[0] not in MODULES]
    return [name for name in names if name.removesuffix(".*") not in SETTINGS]


def _anchor(title: str) -> str:
    """How GitHub and mkdocs name the anchor of a title."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


def _broken_links(page: str, text: str) -> list[str]:
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor and target.is_file() else []
        if not target.exists() or (anchor and anchor not in map(_anchor, titles)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.run"))
def test_every_pipeline_command_is_one_that_the_program_takes(command: str) -> None:
    if command == "python -m pipeline.run":
        return
    options = run_parser().parse_args(shlex.split(command)[3:])
    assert options.config is None or options.config in preset_names() or options.config.endswith(".yaml")
    for override in options.set:
        assert override.partition("=")[0] in SETTINGS


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.cache"))
def test_every_cache_command_is_one_that_the_program_takes(command: str) -> None:
    words = shlex.split(command)[3:]
    # A command alone is its name in a sentence.
    assert (set(words) <= set(_subparsers(cache_parser()))) or cache_parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("command", _commands(r"python -m pipeline\.bench"))
def test_every_benchmark_command_is_one_that_the_program_takes(command: str) -> None:
    words = shlex.split(command)[3:]
    assert not words or bench_parser().parse_args(words).bench == "cache"


@pytest.mark.parametrize(("program", "command"), [("ray start", start), ("ray job submit", submit)])
def test_every_ray_command_has_only_options_that_ray_takes(program: str, command: click.Command) -> None:
    given = [shlex.split(line.partition(" -- ")[0]) for line in _commands(program)]
    assert given
    for words in given:
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= _ray_options(command)


def test_every_module_that_a_command_runs_exists() -> None:
    for module in {words.split()[2] for words in _commands(r"python -m pipeline")}:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_there_is_something_to_check() -> None:
    assert len(_commands(r"python -m pipeline\.bench")) >= 3
    assert len(_commands(r"python -m pipeline\.run")) >= 5
    assert len(_commands(r"python -m pipeline\.cache")) >= 5
    assert len(_blocks("yaml")) >= 5
    assert len(TEACHERS) == 4


def test_the_table_of_cache_commands_has_all_of_them_with_their_options() -> None:
    table = PAGES["docs/cache.md"].partition("## Commands")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z]+) ?([^`]*)` \|", table, flags=re.MULTILINE))
    commands = _subparsers(cache_parser())
    assert set(rows) == set(commands)
    for name, parser in commands.items():
        assert set(re.findall(r"--[a-z-]+", rows[name])) == _options(parser) - {"--help", "--home", "--json"}


def test_the_table_of_run_options_has_all_of_them() -> None:
    table = PAGES["docs/running.md"].partition("## Options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)", table, re.MULTILINE)) == _options(run_parser()) - {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_backticks_exists(page: str) -> None:
    known = _options(run_parser()) | _options(cache_parser()) | _options(bench_parser())
    known |= _ray_options(start) | _ray_options(submit) | FOREIGN_OPTIONS
    known |= REMOVED_OPTIONS if page == "CHANGELOG.md" else set()
    given = {
        option for code in re.findall(r"`([^`\n]+)`", PAGES[page]) for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)
    }
    assert given <= known


@pytest.fixture
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("COCO_ROOT", "ODKD_WEIGHTS", "PHOTOGRAPHS", "TEACHER"):
        monkeypatch.setenv(variable, "/data")


def _load(text: str, folder: Path) -> Settings:
    path = folder / "my.yaml"
    path.write_text(text)
    return load_settings(str(path))


@pytest.mark.usefixtures("_variables")
@pytest.mark.parametrize(("page", "block"), _blocks("yaml"))
def test_every_yaml_block_is_a_valid_configuration(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _load(block, tmp_path).name, page


@pytest.mark.usefixtures("_variables")
@pytest.mark.parametrize("cell", TEACHERS)
def test_every_way_to_give_a_teacher_is_a_valid_configuration(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The senior of an ONNX primary has a base of its own, as the page says below the table.
    senior = "{base: {weights: /models/teacher.pt2}}" if ".onnx" in cell else "{}"
    teachers = f"{{primary: {cell.replace('FILE', '/models/teacher')}, senior: {senior}}}"
    settings = _load(f"preset: coco_hrnet_w16\nteachers: {teachers}\n", tmp_path)
    assert (settings.teachers.primary.weights is not None) == ("FILE" in cell)


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_setting_in_backticks_exists(page: str) -> None:
    assert _missing_settings(PAGES[page]) == []


def test_a_setting_that_does_not_exist_is_noticed() -> None:
    text = "`distil.epochs` `views.count` `distill.*` `views.cuont` `distill.size_divisor: 2` `distill.width: 2`"
    assert _missing_settings(text) == ["distil.epochs", "views.cuont", "distill.width"]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", PAGES[page])) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_file_and_title_exists(page: str) -> None:
    assert _broken_links(page, PAGES[page]) == []


def test_a_broken_link_is_noticed() -> None:
    text = "[a](docs/index.md) [b](docs/nothing.md) [c](docs/cache.md#commands) [d](docs/cache.md#nothing)"
    assert _broken_links("README.md", text) == ["docs/nothing.md", "docs/cache.md#nothing"]


@pytest.mark.parametrize("page", PAGES)
def test_every_source_file_in_backticks_exists(page: str) -> None:
    paths = re.findall(r"`((?:pipeline|stages|storage_schemas|tests|docs|\.ci)/[\w./*-]*)`", PAGES[page])
    assert [path for path in paths if not list(ROOT.glob(path.rstrip("/")))] == []


def test_every_function_that_the_tour_names_is_defined_in_its_file() -> None:
    named = re.findall(r"`([\w/]+\.py)`: `(\w+)`", PAGES["docs/tour.md"])
    assert len(named) >= 5
    assert [name for file, name in named if not re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), re.M)] == []


def test_every_environment_variable_of_ours_is_read_by_the_code() -> None:
    sources = "".join(path.read_text() for folder in ("pipeline", "storage_schemas") for path in (ROOT / folder).rglob("*.py"))
    presets = "".join(path.read_text() for path in ROOT.glob("pipeline/config/presets/*.yaml"))
    named = {name for text in PAGES.values() for name in re.findall(r"\bODKD_[A-Z_]+", text)} - {"ODKD_BENEATH"}
    assert {name for name in named if name not in sources + presets} == set()


def test_the_site_lists_every_page_once() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in listed) == sorted(page for page in PAGES if page.startswith("docs/"))


def test_the_glossary_names_every_kind_of_entry() -> None:
    assert [kind for kind in KINDS if f"`{kind}`" not in PAGES["docs/glossary.md"]] == []


def test_the_readme_is_short() -> None:
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_the_rules_for_contributors_are_short() -> None:
    assert len(PAGES["CONTRIBUTING.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_documents_are_plain_ascii(page: str) -> None:
    assert PAGES[page].isascii()


@pytest.mark.parametrize("page", PAGES)
def test_documents_use_plain_words(page: str) -> None:
    text = re.sub(r"`[^`\n]*`", "", PAGES[page]).lower()
    assert [word for word in UNPLAIN if word in text] == []
