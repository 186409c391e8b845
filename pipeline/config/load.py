"""The configuration: a preset or a YAML file, ``--set`` overrides, and every mistake in them told at once."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.strict_yaml import dump, load, problem, shown
from stages.settings import Settings
from storage_schemas.errors import ConfigError, Remedy
from storage_schemas.paths.path import parse_path

__all__ = ["load_settings", "preset_names", "resolved_yaml"]

Tree = dict[str, Any]

DEFAULT_PRESET = "demo"
_PATH_KEYS = ("annotations", "images", "weights", "boxes")
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_UNKNOWN = "no such setting"
_PLAIN_WORDS = {
    "a valid array": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a string (in quotes, if it looks like something else)",
    "an object": "a section",
}


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("pipeline.config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_settings(config: str | None, overrides: Sequence[str] = ()) -> Settings:
    """Read a preset (by name) or a YAML file (by path), apply ``a.b=c`` overrides, and validate.

    Args:
        config: None means the preset ``demo``. A file may name the preset it starts from: ``preset: coco_hrnet_w16``.
        overrides: the values are YAML; a mapping replaces the section that was there.

    Raises:
        ConfigError: with all the mistakes that validation finds, one line each.
    """
    # An empty name is not no name: it is what a shell makes of a variable that is not set.
    source = DEFAULT_PRESET if config is None else config
    tree = _read(source)
    for override in overrides:
        _apply(tree, override)
    expanded = _expand_paths(tree, source)
    try:
        return _validated(expanded)
    except ValidationError as error:
        raise _explained(error, source, expanded) from error


def _validated(tree: Tree) -> Settings:
    # JSON's strict mode takes a list for a tuple and a string for a path, but not true for 1 nor "20" for 20.
    return Settings.model_validate_json(json.dumps(tree), strict=True)


def resolved_yaml(settings: Settings) -> str:
    """All settings as YAML, defaults too; ``load_settings`` reads it back as equal settings, whatever the environment is."""
    tree = _map_paths(settings.model_dump(mode="json"), lambda text: text.replace("$", "$$"))
    return dump(tree)


def _read(config: str) -> Tree:
    """The tree of a preset or file, merged over the preset that the file starts from."""
    names = preset_names()
    if config in names:
        return _parse_preset(config)
    path = parse_path(config)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"--config '{config}': {error}", allowed="a path to a YAML file") from error
    if not config or not path.is_file():
        near = difflib.get_close_matches(config, names, n=1)
        raise ConfigError(
            f"There is no preset and no file '{config}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            allowed=f"a preset ({', '.join(names)}) or a path to a YAML file",
        )
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{config}' cannot be read: {error}", allowed="a YAML file in UTF-8") from error
    tree = _parse(text, config)
    base = tree.pop("preset", None)
    if base is None:
        return tree
    if base not in names:
        raise ConfigError(f"preset: {base!r} in '{config}' does not exist", allowed=f"one of {', '.join(names)}")
    # Its own name, so that an experiment that starts from a preset does not write over the preset's.
    return _merged(_parse_preset(base), {"name": path.name.rpartition(".")[0] or path.name, **tree})


def _parse_preset(name: str) -> Tree:
    return _parse((resources.files("pipeline.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"), name)


def _parse(text: str, source: str) -> Tree:
    try:
        tree = load(text)
    except yaml.YAMLError as error:
        mark = (error.problem_mark or error.context_mark) if isinstance(error, yaml.MarkedYAMLError) else None
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"'{source}' is not valid YAML{place}: {problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"'{source}' holds a {type(tree).__name__}", allowed="sections of settings, such as 'data:'")
    return cast("Tree", tree)


def _merged(base: Tree, over: Tree) -> Tree:
    """``over`` laid on ``base``: sections key by key; anything else, lists too, replaces what was there."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _apply(tree: Tree, override: str) -> None:
    """Put one ``a.b=c`` into ``tree``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not _DOTTED.fullmatch(key):
        raise ConfigError(f"--set {override}", allowed="--set section.key=value, such as --set views.count=8")
    try:
        value = load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}: the value is not valid YAML: {problem(error)}", allowed="a YAML value, quoted if need be"
        ) from error
    *sections, last = key.split(".")
    place = tree
    for depth, section in enumerate(sections):
        below = place.get(section)
        if below is None:
            below = place[section] = {}
        elif not isinstance(below, dict):
            raise ConfigError(f"--set {override}: {'.'.join(sections[: depth + 1])} is {shown(below)}, not a section")
        place = below
    place[last] = value


def _expand_paths(tree: Tree, source: str) -> Tree:
    """Replace ``$NAME``, ``${NAME}`` and a leading ``~`` in the values that are paths; ``$$`` is a dollar."""
    unknown: dict[str, None] = {}

    def value_of(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["bare"] or match["braced"]
        if name not in os.environ:
            unknown[name] = None
        return os.environ.get(name, "")

    expanded = _map_paths(tree, lambda text: os.path.expanduser(_VARIABLE.sub(value_of, text)))  # noqa: PTH111 ("~" of a str)
    if unknown:
        raise ConfigError(
            f"'{source}' uses {', '.join(f'${name}' for name in unknown)}, which the environment does not define",
            allowed="an absolute path in each",
            remedy=Remedy("shell", text="; ".join(f"export {name}=/path/to/it" for name in unknown)),
        )
    return expanded


def _map_paths(tree: Tree, change: Callable[[str], str]) -> Tree:
    """``tree`` with every string that stands for a path changed."""
    result: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result[key] = _map_paths(value, change)
        else:
            result[key] = change(value) if key in _PATH_KEYS and isinstance(value, str) else value
    return result


def _explained(error: ValidationError, source: str, tree: Tree) -> ConfigError:
    """A count, then a line for each mistake: where, what was seen, what is allowed."""
    mistakes = {key: told for key, told in _mistakes(error, tree).items() if told.startswith(_UNKNOWN)}
    meant = _meant(tree)
    try:
        _validated(meant)
    except ValidationError as others:
        mistakes |= _mistakes(others, meant)
    lines = [f"  {key or 'the whole'}: {told}" for key, told in mistakes.items()]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(
        "\n".join([f"{count} in the configuration '{source}':", *lines]),
        remedy=Remedy("settings"),
    )


def _meant(tree: Tree) -> Tree:
    """``tree`` with each unknown section under the nearest name, so that what is wrong inside it is found too."""
    result: Tree = {}
    for name, value in tree.items():
        unknown = isinstance(value, dict) and name not in Settings.model_fields
        for key in reversed(((unknown and _nearest([name])) or name).split(".")):
            value = {key: value}
        result = _merged(result, value)
    return result


def _mistakes(error: ValidationError, tree: Tree) -> dict[str, str]:
    """What validation found, by the key where it is."""
    found: dict[str, list[str]] = {}
    via_union: set[str] = set()
    for details in error.errors(include_url=False):
        place, tagged = _place(details, tree)
        key = ".".join(place)
        found.setdefault(key, []).append(_told(details, place))
        if tagged:
            via_union.add(key)
    # Of the alternatives of a setting, the one whose inside was looked at is the one that was meant.
    meant = {k: told for k, told in found.items() if k not in via_union or not any(o.startswith(f"{k}.") for o in found)}
    return {key: _joined(told) for key, told in meant.items()}


def _joined(told: Sequence[str]) -> str:
    """The alternatives of one setting in one sentence, which names the value once."""
    first, *others = dict.fromkeys(told)
    return ", or ".join([first, *(other.partition(" must be ")[2] or other for other in others)])


def _place(details: ErrorDetails, tree: Tree) -> tuple[list[str], bool]:
    """The keys that lead to a mistake, without pydantic's names for the alternatives of a union, and whether it had such."""
    keys: list[str] = []
    here: Any = tree
    tagged = False
    for position, part in enumerate(details["loc"]):
        is_last = position == len(details["loc"]) - 1
        if isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif isinstance(here, dict) and (part in here or (is_last and details["type"] == "missing")):
            here = here.get(str(part))
        else:
            tagged = True
            continue
        keys.append(str(part))
    return keys, tagged


def _told(details: ErrorDetails, place: Sequence[str]) -> str:
    """One mistake in words: the value seen and what is allowed."""
    kind, message, value = details["type"], details["msg"], details["input"]
    if kind == "extra_forbidden":
        near = _nearest(place)
        return _UNKNOWN + (f"; did you mean '{near}'?" if near else "")
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    said = re.sub(r"^(Input|String|Tuple|List) should", "must", message)
    for theirs, ours in _PLAIN_WORDS.items():
        said = said.replace(theirs, ours)
    return f"{shown(value)} {said}"


def _nearest(place: Sequence[str]) -> str | None:
    """The setting that was probably meant by an unknown key: one with the same name deeper down, or one spelt much like it."""
    *sections, unknown = place
    section = _section_at(sections)
    if section is None:
        return None
    deeper = [dotted for dotted in _dotted_names(section) if dotted.split(".")[-1] == unknown]
    near = deeper or difflib.get_close_matches(unknown, [*section.model_fields], n=1)
    return ".".join([*sections, near[0]]) if near else None


def _section_at(place: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Settings
    for key in place:
        if key.isdigit():
            continue
        field = section.model_fields.get(key) if section else None
        section = next(_sections_in(field.annotation, in_lists=True), None) if field else None
    return section


def _dotted_names(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """All settings below ``section`` that a dotted key can name."""
    for name, field in section.model_fields.items():
        yield f"{before}{name}"
        for inner in _sections_in(field.annotation, in_lists=False):
            yield from _dotted_names(inner, f"{before}{name}.")


def _sections_in(annotation: object, *, in_lists: bool) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif in_lists or get_origin(annotation) is not tuple:
        for inner in get_args(annotation):
            yield from _sections_in(inner, in_lists=in_lists)
