"""Loading a configuration: a preset or a YAML file, ``--set`` overrides, and variables in paths."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import cast

import yaml
from pydantic import ValidationError

from pipeline.config.explain import explain
from pipeline.config.strict_yaml import dump, load, problem, shown
from pipeline.config.tree import Tree, merged
from stages.settings import Settings
from storage_schemas.errors import ConfigError, Remedy
from storage_schemas.paths.path import StorePath, parse_path

__all__ = ["load_settings", "preset_names", "resolved_yaml"]

DEFAULT_PRESET = "demo"
_MOST_BYTES = 1 << 20
_PATH_KEYS = ("annotations", "images", "weights", "init", "boxes")
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def preset_names() -> list[str]:
    """The names of the presets in the package."""
    folder = resources.files("pipeline.config") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_settings(config: str | None, overrides: Sequence[str] = ()) -> Settings:
    """Read a preset (by name) or a YAML file (by path), apply ``a.b=c`` overrides, and validate.

    Args:
        config: a preset or a file; None means the preset ``demo``. A file may extend a preset: ``preset: coco_hrnet_w16``.
        overrides: ``a.b=c``, with ``c`` in YAML; a mapping replaces the whole section.

    Raises:
        ConfigError: the file cannot be read, or validation finds mistakes (all of them, one line each).
    """
    # An empty text is an error, not the default: a shell makes one of a variable that is not set.
    source = DEFAULT_PRESET if config is None else config
    tree = _read(source)
    for override in overrides:
        _apply(tree, override)
    expanded = _expand_paths(tree, source)
    try:
        return _validated(expanded)
    except ValidationError as error:
        raise explain(error, source=source, tree=expanded, validate=_validated) from error


def _validated(tree: Tree) -> Settings:
    # The strict mode for JSON accepts a list as a tuple and a string as a path, but neither true as 1 nor "20" as 20.
    return Settings.model_validate_json(json.dumps(tree), strict=True)


def resolved_yaml(settings: Settings) -> str:
    """All settings as YAML, with defaults; ``load_settings`` reads it back as equal settings in any environment."""
    tree = _map_paths(settings.model_dump(mode="json"), lambda text: text.replace("$", "$$"))
    return dump(tree)


def _read(config: str) -> Tree:
    """The tree of a preset or file; a file is merged over the preset that it extends."""
    names = preset_names()
    if config in names:
        return _parse_preset(config)
    path = parse_path(config)
    if not config or not path.is_file():
        near = difflib.get_close_matches(config, names, n=1)
        raise ConfigError(
            f"There is no preset and no file '{config}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            allowed=f"a preset ({', '.join(names)}) or a path to a YAML file",
        )
    try:
        text = _bytes(path, config).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{config}' cannot be read: {error}", allowed="a YAML file in UTF-8") from error
    tree = _parse(text, config)
    base = tree.pop("preset", None)
    if base is None:
        return tree
    if base not in names:
        raise ConfigError(f"preset: {base!r} in '{config}' does not exist", allowed=f"one of {', '.join(names)}")
    # Name the experiment after its file, so that it does not overwrite an experiment named after the preset.
    return merged(_parse_preset(base), {"name": path.name.rpartition(".")[0] or path.name, **tree})


def _bytes(path: StorePath, config: str) -> bytes:
    """The bytes of a file; no more of a large file is read than shows that it is too large."""
    data = b""
    for block in path.blocks():
        data += block
        if len(data) > _MOST_BYTES:
            seen = f"'{config}' has more than {_MOST_BYTES:,} bytes"
            raise ConfigError(seen, allowed=f"settings, at most {_MOST_BYTES:,} bytes")
    return data


def _parse_preset(name: str) -> Tree:
    """The tree of a preset, which can extend another one."""
    tree = _parse((resources.files("pipeline.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"), name)
    base = tree.pop("preset", None)
    return tree if base is None else merged(_parse_preset(cast("str", base)), tree)


def _parse(text: str, source: str) -> Tree:
    try:
        tree = load(text)
    except yaml.YAMLError as error:
        mark = (error.problem_mark or error.context_mark) if isinstance(error, yaml.MarkedYAMLError) else None
        position = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"'{source}' is not valid YAML{position}: {problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"'{source}' holds a {type(tree).__name__}", allowed="sections of settings, such as 'data:'")
    return cast("Tree", tree)


def _apply(tree: Tree, override: str) -> None:
    """Set one ``a.b=c`` in ``tree``."""
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
    section_tree = tree
    for depth, section in enumerate(sections):
        below = section_tree.get(section)
        if below is None:
            below = section_tree[section] = {}
        elif not isinstance(below, dict):
            raise ConfigError(f"--set {override}: {'.'.join(sections[: depth + 1])} is {shown(below)}, not a section")
        section_tree = below
    section_tree[last] = value


def _expand_paths(tree: Tree, source: str) -> Tree:
    """Replace ``$NAME``, ``${NAME}`` and a leading ``~`` in values that are paths; ``$$`` means a dollar sign."""
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
    """``tree`` with ``change`` applied to every string that is a path."""
    result: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result[key] = _map_paths(value, change)
        else:
            result[key] = change(value) if key in _PATH_KEYS and isinstance(value, str) else value
    return result
