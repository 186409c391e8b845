"""Mistakes in a configuration, in plain words: the key, the value, what is allowed, and the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.strict_yaml import shown
from pipeline.config.tree import Tree, merged
from stages.settings import Settings
from storage_schemas.errors import ConfigError, Remedy

__all__ = ["Mistake", "explain"]


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


_ALLOWED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_type": lambda _: "true or false",
    "int_type": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "string_type": lambda _: "a string (in quotes, if it looks like another type)",
    "path_type": lambda _: "a path",
    "tuple_type": lambda _: "a list",
    "model_type": lambda _: "a section",
    "literal_error": lambda limits: str(limits["expected"]).replace("False", "false"),
    "greater_than": lambda limits: f"greater than {_number(limits['gt'])}",
    "greater_than_equal": lambda limits: f"at least {_number(limits['ge'])}",
    "less_than": lambda limits: f"less than {_number(limits['lt'])}",
    "less_than_equal": lambda limits: f"at most {_number(limits['le'])}",
    "too_long": lambda limits: f"a list of at most {limits['max_length']} items",
    "string_pattern_mismatch": lambda limits: f"a text that matches {limits['pattern']}",
}
"""What a setting must be, by pydantic's type of error and its limits."""


@dataclass(frozen=True)
class Mistake:
    """One mistake: an unknown key, or a reason, or a value with what it must be instead."""

    key: str
    """The dotted key; empty for the configuration as a whole."""
    unknown: bool = False
    nearest: str | None = None
    """The setting that was probably meant by an unknown key."""
    reason: str = ""
    """The whole text, where a validator or the key alone says it."""
    value: str = ""
    allowed: tuple[str, ...] = ()
    """What the value must be: one item for each alternative of the setting."""

    @property
    def text(self) -> str:
        """The mistake in one line."""
        return f"{self.key or 'the whole'}: {self._problem}"

    @property
    def _problem(self) -> str:
        if self.unknown:
            return "no such setting" + (f"; did you mean '{self.nearest}'?" if self.nearest else "")
        return self.reason or f"{self.value} must be {', or '.join(self.allowed)}"


def explain(error: ValidationError, *, source: str, tree: Tree, validate: Callable[[Tree], object]) -> ConfigError:
    """The error for the user: the number of mistakes, then one line for each.

    Args:
        error: what ``validate`` raised for ``tree``.
        source: the preset or file, for the message.
        tree: the configuration.
        validate: called a second time, with unknown sections under their nearest names, to find the mistakes inside them.
    """
    mistakes = {key: mistake for key, mistake in _mistakes(error, tree).items() if mistake.unknown}
    corrected = _with_nearest_names(tree)
    try:
        validate(corrected)
    except ValidationError as others:
        mistakes |= _mistakes(others, corrected)
    lines = [f"  {mistake.text}" for mistake in mistakes.values()]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError("\n".join([f"{count} in the configuration '{source}':", *lines]), remedy=Remedy("settings"))


def _with_nearest_names(tree: Tree) -> Tree:
    result: Tree = {}
    for name, value in tree.items():
        unknown = isinstance(value, dict) and name not in Settings.model_fields
        for key in reversed(((unknown and _nearest([name])) or name).split(".")):
            value = {key: value}
        result = merged(result, value)
    return result


def _mistakes(error: ValidationError, tree: Tree) -> dict[str, Mistake]:
    """The mistakes by key. Alternatives of a union are joined, unless one of them has a mistake further inside."""
    found: dict[str, Mistake] = {}
    via_union: set[str] = set()
    for details in error.errors(include_url=False):
        path, in_union = _path_of(details, tree)
        key = ".".join(path)
        mistake = _mistake(details, path)
        if key in found:
            mistake = _joined(found[key], mistake)
        found[key] = mistake
        if in_union:
            via_union.add(key)
    # Validation went inside only one alternative, so the user meant that one.
    return {k: m for k, m in found.items() if k not in via_union or not any(other.startswith(f"{k}.") for other in found)}


def _joined(first: Mistake, second: Mistake) -> Mistake:
    """Two alternatives of one setting as one mistake; a reason says more than a list of allowed values."""
    if first.reason or second.reason:
        return first if first.reason else second
    return Mistake(first.key, value=first.value, allowed=tuple(dict.fromkeys([*first.allowed, *second.allowed])))


def _path_of(details: ErrorDetails, tree: Tree) -> tuple[list[str], bool]:
    """The keys that lead to a mistake without pydantic's names for alternatives of a union, and whether there were such."""
    keys: list[str] = []
    here: Any = tree
    in_union = False
    for position, part in enumerate(details["loc"]):
        is_last = position == len(details["loc"]) - 1
        if isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif isinstance(here, dict) and (part in here or (is_last and details["type"] == "missing")):
            here = here.get(str(part))
        else:
            in_union = True
            continue
        keys.append(str(part))
    return keys, in_union


def _mistake(details: ErrorDetails, path: Sequence[str]) -> Mistake:
    key, kind, limits = ".".join(path), details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return Mistake(key, unknown=True, nearest=_nearest(path))
    if kind == "missing":
        return Mistake(key, reason="is missing")
    if kind == "value_error":
        return Mistake(key, reason=str(limits["error"]))
    if kind in _ALLOWED:
        return Mistake(key, value=shown(details["input"]), allowed=(_ALLOWED[kind](limits),))
    return Mistake(key, reason=f"{shown(details['input'])}: {details['msg']}")


def _nearest(path: Sequence[str]) -> str | None:
    """The setting that an unknown key probably means: the same name further inside, or a similar name in the same section."""
    *sections, unknown = path
    section = _section_at(sections)
    if section is None:
        return None
    inside = [dotted for dotted in _dotted_names(section) if dotted.split(".")[-1] == unknown]
    near = inside or difflib.get_close_matches(unknown, [*section.model_fields], n=1)
    return ".".join([*sections, near[0]]) if near else None


def _section_at(path: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Settings
    for key in path:
        if key.isdigit():
            continue
        field = section.model_fields.get(key) if section else None
        section = next(_sections_in(field.annotation, in_lists=True), None) if field else None
    return section


def _dotted_names(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """All settings inside ``section`` that a dotted key can name."""
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
