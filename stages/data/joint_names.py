"""The joints of an annotation file, by their names: are they those of a skeleton, in its order?

Other spellings of the same names are accepted. Other joints, or another order, would silently train a wrong network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from storage_schemas.formats.skeleton import Skeleton

__all__ = ["NamesFault", "names_fault"]

_SIDES = ("left", "right")
_CONVERT = "convert the annotations to the expected joints, with v = 0 for those that they lack"
_RENAME = "if the annotations have the expected joints in this order, remove 'keypoints' from the category"


class NamesFault(NamedTuple):
    """What is wrong with the joints of a file, and what to do about it."""

    text: str
    advice: str


def names_fault(given: Sequence[object], skeleton: Skeleton) -> NamesFault | None:
    """Why joints with these names are not those of ``skeleton``, or None if they are.

    Case and separators do not matter. The side may come last, and may be one letter: ``Left Eye``, ``lefteye``, ``eye_l``.
    Instead of names, numbers from 0 or from 1 on are accepted too.
    """
    expected = skeleton.keypoints
    spellings = [_spellings(name) for name in expected]
    plain = [_plain(name) for name in given]
    known = [next((place for place, accepted in enumerate(spellings) if name in accepted), None) for name in plain]
    if len(given) == len(expected) and (known == list(range(len(expected))) or _counts_up(given)):
        return None
    if sorted(place for place in known if place is not None) == list(range(len(expected))) and len(given) == len(expected):
        wrong = next(number for number, place in enumerate(known) if place != number)
        text = f"the right joints in another order: number {wrong + 1} has to be {expected[wrong]}"
        return NamesFault(text, "write the joints of each annotation in the expected order, and their names too")
    # If one name is known, the file has other joints. If none is known, it may have the right joints under other names.
    advice = _CONVERT if any(place is not None for place in known) else f"{_RENAME}; otherwise {_CONVERT}"
    if len(given) != len(expected):
        return NamesFault(f"{len(given)} joints, not {len(expected)}", advice)
    wrong = next(number for number, place in enumerate(known) if place != number)
    return NamesFault(f"other joints: number {wrong + 1} has to be {expected[wrong]}", advice)


def _counts_up(given: Sequence[object]) -> bool:
    """Whether the names are one word with the numbers from 0 or from 1 on, such as ``keypoint_1``, or the numbers alone."""
    found = [re.fullmatch(r"(\D*)(\d{1,4})", _text(name)) for name in given]
    words = {match[1] if match else None for match in found}
    numbers = [int(match[2]) for match in found if match]
    return len(words) == 1 and None not in words and numbers in (list(range(len(given))), list(range(1, len(given) + 1)))


def _text(name: object) -> str:
    """A name as text; anything but a string or a number is no name."""
    return str(name) if type(name) in (str, int) else ""


def _plain(name: object) -> str:
    return "".join(filter(str.isalnum, _text(name).casefold()))


def _spellings(name: str) -> frozenset[str]:
    """The accepted spellings of a joint, without separators: lefteye, eyeleft, leye and eyel for ``left_eye``."""
    side, _, part = name.partition("_")
    if side not in _SIDES:
        return frozenset({_plain(name)})
    return frozenset(text for word in (side, side[0]) for text in (word + _plain(part), _plain(part) + word))
