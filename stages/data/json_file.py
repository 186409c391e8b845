"""JSON files of a user: read with a limit of size, and every fault of their form as one message.

Python's reader accepts NaN, Infinity and repeated keys, which JSON does not allow or does not define. The first two are
reported to the caller, since some tools write them where they do no harm. A file with repeated keys is refused.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from storage_schemas.errors import DataError

__all__ = ["Json", "few", "finite_numbers", "read_json", "show", "whole"]

_MAX_BYTES = 4 << 30
_SHOWN = 10
_EXACT_FLOAT = 1 << 53
"""A float from here on may stand for another whole number."""

_NUMBER_TYPES = frozenset((int, float))

Json = dict[str, Any]


def read_json(path: Path, *, what: str, allowed: str) -> tuple[object, list[str]]:
    """The document, and the literals NaN, Infinity and -Infinity in it, in the order of the file.

    Raises:
        DataError: it cannot be read, is larger than 4 GiB, or is not JSON. ``what`` and ``allowed`` are used in the message.
    """

    def refuse(seen: str, allowed: str) -> NoReturn:
        raise DataError(f"The {what} {path}: {seen}", allowed=allowed)

    try:
        if path.stat().st_size > _MAX_BYTES:
            refuse(f"{path.stat().st_size} bytes", f"at most {_MAX_BYTES} bytes; split the data set")
        document, literals, repeated = _parsed(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        refuse(f"cannot be read: {error.strerror or error}", "a file that this user may read")
    except UnicodeDecodeError as error:
        refuse(f"is not UTF-8 at byte {error.start}", "JSON in UTF-8")
    except RecursionError:
        refuse("is nested too deeply", allowed)
    except ValueError as error:
        refuse(f"is not JSON: {error}", allowed)
    if repeated:
        refuse(f"{len(repeated)} keys are repeated within an object: {few(repeated)}", "each key once in an object")
    return document, literals


def _parsed(text: str) -> tuple[object, list[str], list[str]]:
    """The document, its literals that are not finite, and the keys that are repeated within an object."""
    literals: list[str] = []
    repeated: list[str] = []

    def not_finite(name: str) -> float:
        literals.append(name)
        return float(name)

    def once(pairs: list[tuple[str, Any]]) -> Json:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return found

    return json.loads(text, parse_constant=not_finite, object_pairs_hook=once), literals, repeated


def show(value: object) -> str:
    """A value from the file as text, shortened if it is long or deeply nested."""
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python writes no integer of more than 4,300 digits. A file holds none, but a sum of its numbers may be one.
        return "a number of thousands of digits"


def few(values: Sequence[object], most: int = _SHOWN) -> str:
    """The first values as text, and the number of the others."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(show(value) for value in values[:most]) + more


def whole(value: Any) -> Any:  # noqa: ANN401 (any value of a JSON file)
    """A whole number that is written as a float, such as 320.0, as an integer; any other value as it is."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < _EXACT_FLOAT else value


def finite_numbers(value: object, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers, or None; numpy alone would also accept strings and booleans."""
    if not isinstance(value, list) or len(value) != count or not _NUMBER_TYPES.issuperset(map(type, value)):
        return None
    try:
        numbers = [float(item) for item in value]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
