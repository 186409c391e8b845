"""The configuration: a preset or a YAML file, ``--set`` overrides, and every mistake in them told at once."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stages.settings import Settings
from storage_schemas.errors import ConfigError

__all__ = ["load_settings", "main", "preset_names", "resolved_yaml"]

Tree = dict[str, Any]

DEFAULT_PRESET = "demo"
_PATH_KEYS = ("annotations", "images", "weights", "boxes")
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# JSON's numbers, and .5 and +5 as YAML 1.2 has them. PyYAML follows YAML 1.1, where 010 is 8, 1:30 is 90 and 1e-3 a string.
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FIRST_OF_NUMBER = list("-+.0123456789")
_BOOL = re.compile("true|false|yes|no|on|off", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_LONGEST_VALUE = 60
_PLAIN_WORDS = {
    "a valid array": "a list",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a string (in quotes, if it looks like something else)",
    "an object": "a section",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML of JSON's values: a key is a string and stands once, numbers are JSON's, and dates are strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == f"{_TAG}merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys ('<<') are not read: write the settings out, or name a preset", key_node.start_mark
                )
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``_Loader`` would read as numbers."""


def _scalar(pattern: re.Pattern[str], make: Callable[[str], object]) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], object]:
    """How a plain value is made; a tag such as ``!!int`` may stand before one that is none."""

    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        try:
            if pattern.fullmatch(text):
                return make(text)
        except ValueError:
            pass  # a number of more digits than Python reads
        raise yaml.constructor.ConstructorError(None, None, f"{_shown(text)} is no {_short_tag(node)}", node.start_mark)

    return construct


def _refused(_: yaml.SafeLoader, node: yaml.Node) -> object:
    raise yaml.constructor.ConstructorError(None, None, f"no setting is a {_short_tag(node)}", node.start_mark)


def _short_tag(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) in ("bool", "null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    **{f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"] for name in ("null", "str", "seq", "map")},
    f"{_TAG}bool": _scalar(_BOOL, lambda text: yaml.SafeLoader.bool_values[text.lower()]),
    f"{_TAG}int": _scalar(_INT, int),
    f"{_TAG}float": _scalar(_FLOAT, float),
    None: _refused,
}
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(f"(?:{_INT.pattern})$"), _FIRST_OF_NUMBER)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), _FIRST_OF_NUMBER)


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("pipeline") / "presets"
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
        # JSON's strict mode takes a list for a tuple and a string for a path, but not true for 1 nor "20" for 20.
        return Settings.model_validate_json(json.dumps(expanded), strict=True)
    except ValidationError as error:
        raise _explained(error, source, expanded) from error


def resolved_yaml(settings: Settings) -> str:
    """All settings as YAML, defaults too; ``load_settings`` reads it back as equal settings, whatever the environment is."""
    tree = _map_paths(settings.model_dump(mode="json"), lambda text: text.replace("$", "$$"))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)


def _read(config: str) -> Tree:
    """The tree of a preset or file, merged over the preset that the file starts from."""
    names = preset_names()
    if config in names:
        return _parse_preset(config)
    try:
        path = Path(config).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"--config '{config}': {error}", allowed="a path to a YAML file") from error
    if not config or not path.is_file():
        near = difflib.get_close_matches(config, names, n=1)
        raise ConfigError(
            f"There is no preset and no file '{config}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            allowed=f"a preset ({', '.join(names)}) or a path to a YAML file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{config}' cannot be read: {error}", allowed="a YAML file in UTF-8") from error
    tree = _parse(text, config)
    base = tree.pop("preset", None)
    if base is None:
        return tree
    if base not in names:
        raise ConfigError(f"preset: {base!r} in '{config}' does not exist", allowed=f"one of {', '.join(names)}")
    # Its own name, so that an experiment that starts from a preset does not write over the preset's.
    return _merged(_parse_preset(base), {"name": path.stem, **tree})


def _parse_preset(name: str) -> Tree:
    return _parse((resources.files("pipeline") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"), name)


def _parse(text: str, source: str) -> Tree:
    try:
        tree = _load(text)
    except yaml.YAMLError as error:
        mark = (error.problem_mark or error.context_mark) if isinstance(error, yaml.MarkedYAMLError) else None
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"'{source}' is not valid YAML{place}: {_problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"'{source}' holds a {type(tree).__name__}", allowed="sections of settings, such as 'data:'")
    return cast("Tree", tree)


def _load(text: str) -> object:
    """The value of a YAML text. Nothing in it is shared: a change below an anchor must not reach where its aliases stand.

    Raises:
        yaml.YAMLError: it is not YAML, or holds what JSON cannot.
    """
    try:
        return _unshared(yaml.load(text, Loader=_Loader))
    except RecursionError as error:
        raise yaml.YAMLError("a value holds itself, or sections are nested without end") from error


def _unshared(value: object) -> object:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _problem(error: yaml.YAMLError) -> str:
    return str((error.problem or error.context) if isinstance(error, yaml.MarkedYAMLError) else error)


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
        value = _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}: the value is not valid YAML: {_problem(error)}", allowed="a YAML value, quoted if need be"
        ) from error
    *sections, last = key.split(".")
    place = tree
    for depth, section in enumerate(sections):
        below = place.get(section)
        if below is None:
            below = place[section] = {}
        elif not isinstance(below, dict):
            raise ConfigError(f"--set {override}: {'.'.join(sections[: depth + 1])} is {_shown(below)}, not a section")
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
            run="; ".join(f"export {name}=/path/to/it" for name in unknown),
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
    lines = [f"  {key or 'the whole'}: {_joined(told)}" for key, told in meant.items()]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(
        "\n".join([f"{count} in the configuration '{source}':", *lines]),
        run="python -m pipeline.config   (prints every setting there is, as the demo has it)",
    )


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
        return "no such setting" + (f"; did you mean '{near}'?" if near else "")
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    said = re.sub(r"^(Input|String|Tuple|List) should", "must", message)
    for theirs, ours in _PLAIN_WORDS.items():
        said = said.replace(theirs, ours)
    return f"{_shown(value)} {said}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the resolved configuration: ``python -m pipeline.config --config my.yaml``."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.config", description="Print the resolved configuration.")
    parser.add_argument("--config", help=f"a preset ({', '.join(preset_names())}) or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a setting")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(resolved_yaml(load_settings(options.config, options.set)))
    except ConfigError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
