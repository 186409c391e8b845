"""Strict YAML: only the values of JSON, no repeated keys, and every written value is read back equal."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import yaml

__all__ = ["dump", "load", "problem", "shown"]

# The numbers of JSON, and .5 and +5 of YAML 1.2. PyYAML follows YAML 1.1: 010 is 8, 1:30 is 90, and 1e-3 is a string.
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FIRST_OF_NUMBER = list("-+.0123456789")
_BOOL = re.compile("true|false|yes|no|on|off", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_LONGEST_VALUE = 60
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """Loads YAML with the values of JSON: keys are unique strings, numbers are JSON's, and dates are strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == f"{_TAG}merge":
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    "merge keys ('<<') are not read: repeat the settings, or extend a preset",
                    key_node.start_mark,
                )
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a string", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that ``_Loader`` would read as numbers."""


def _scalar(pattern: re.Pattern[str], make: Callable[[str], object]) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], object]:
    """Constructs a plain value, and refuses a text that does not fit its tag, such as ``!!int 010``."""

    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        try:
            if pattern.fullmatch(text):
                return make(text)
        except ValueError:
            pass  # Python refuses numbers with too many digits
        raise yaml.constructor.ConstructorError(None, None, f"{shown(text)} is not a valid {_short_tag(node)}", node.start_mark)

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


def load(text: str) -> object:
    """The value of a YAML text. Aliases become copies, so that a change of one does not change the others.

    Raises:
        yaml.YAMLError: the text is not YAML, holds a value that JSON does not have, or its aliases stand for too many values.
    """
    try:
        return _unshared(yaml.load(text, Loader=_Loader), itertools.count(1))
    except RecursionError as error:
        raise yaml.YAMLError("a value contains itself, or the sections are nested too deeply") from error


def _unshared(value: object, counter: Iterator[int]) -> object:
    if next(counter) > _MOST_VALUES:
        # A few lines of aliases of aliases can stand for billions of values.
        raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES:,} values")
    if isinstance(value, dict):
        return {key: _unshared(inner, counter) for key, inner in value.items()}
    return [_unshared(inner, counter) for inner in value] if isinstance(value, list) else value


def dump(value: object) -> str:
    """The YAML text of a value, with the keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def problem(error: yaml.YAMLError) -> str:
    """The message of a YAML error, without its position."""
    return str((error.problem or error.context) if isinstance(error, yaml.MarkedYAMLError) else error)


def shown(value: object) -> str:
    """A value as JSON for messages, cut if it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
