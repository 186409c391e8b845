"""The recipe of an entry, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SCHEMA_VERSION", "Recipe", "as_json", "canonical_json", "differing_fields", "is_key", "key_of"]

SCHEMA_VERSION = 3
_SHOWN_WHOLE = 4
"""A list of at most so many plain values is shown whole where it differs."""
_KEY = re.compile("[0-9a-f]{16}")

Recipe = Mapping[str, Any]
"""All that an entry's content depends on, as JSON; nothing else (no names, paths, machines or worker counts)."""


def canonical_json(value: object) -> bytes:
    """The value in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back, so that a new entry equals the same entry read from disk."""
    plain: dict[str, Any] = json.loads(canonical_json(value))
    return plain


def key_of(kind: str, recipe: Recipe) -> str:
    """The key of an entry: 16 hexadecimal digits of the sha256 of its kind, schema version and recipe."""
    return hashlib.sha256(canonical_json({"kind": kind, "schema": SCHEMA_VERSION, "recipe": recipe})).hexdigest()[:16]


def is_key(text: str) -> bool:
    """True if the text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def differing_fields(ours: Recipe, theirs: Recipe, prefix: str = "") -> list[tuple[str, object, object]]:
    """The leaves in which two recipes differ, as (dotted name, ours, theirs); a missing field is None.

    Long lists and lists of mappings are compared by element: each field that differs is given for the first element in which
    it differs, and its name says how many more elements differ in it.
    """
    found: list[tuple[str, object, object]] = []
    for name in sorted({*ours, *theirs}):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += differing_fields(mine, other, f"{prefix}{name}.")
        # Compare as the key does: a tuple equals the list that JSON makes of it, and 1 differs from 1.0.
        elif (name in ours) != (name in theirs) or canonical_json(mine) != canonical_json(other):
            found += _differing(f"{prefix}{name}", mine, other)
    return found


def _differing(name: str, mine: object, other: object) -> list[tuple[str, object, object]]:
    """The fields of two values that differ and are not both mappings."""
    if not isinstance(mine, list | tuple) or not isinstance(other, list | tuple) or (_is_short(mine) and _is_short(other)):
        return [(name, mine, other)]
    if len(mine) != len(other):
        return [(f"number of {name}", len(mine), len(other))]
    found: dict[str, list[tuple[int, object, object]]] = {}
    for row, (ours, theirs) in enumerate(zip(mine, other, strict=True)):
        for field, here, there in differing_fields({"": ours}, {"": theirs}):
            found.setdefault(field, []).append((row, here, there))
    return [
        (f"{name}[{rows[0][0]}{f' and {len(rows) - 1} more' if len(rows) > 1 else ''}]{field}", *rows[0][1:])
        for field, rows in found.items()
    ]


def _is_short(values: Sequence[object]) -> bool:
    return len(values) <= _SHOWN_WHOLE and not any(isinstance(value, Mapping | list | tuple) for value in values)
