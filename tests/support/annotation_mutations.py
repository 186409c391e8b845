"""Damaged and hostile annotation and detections files without end: each number seeds the generator that makes its file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tests.support.coco_samples import Json, document, standing

__all__ = ["IMAGES", "change_document", "change_text", "mutated_annotations", "mutated_detections"]

T = TypeVar("T")
Generator = np.random.Generator

_WORDS = (
    "NaN", "-Infinity", "1e400", "-1e300", "1e-60", "1" * 400, "1" * 5000, "null", "true", "{}", "[]", "[[]]", '""',
    '"\\ud800"', '"\\u0000"', '"\\u202e"', '"../x"', "-0.0", "0", "-1", "0.5", "2147483648", "9223372036854775808", "1e16",
    "[" * 500 + "]" * 500, "[" * 5000, '{"a":' * 400 + "1" + "}" * 400, '{"a": 1, "a": 2}',
)  # fmt: skip
"""Pieces of JSON, some of which no JSON reader should accept."""

_RUNS = ("", "o", "0", "P1", "\x00", "~" * 2000, "o" * 100_000, "00000", "é", "1" * 4000)


def _people() -> list[Json]:
    """People with a mask of each form, a crowd, a person without labels, and one of another category."""
    plain = [standing(number) for number in range(1, 7)]
    runs = standing(2, id=201, segmentation={"size": [240, 320], "counts": [5000, 800, 71000]})
    packed = standing(3, id=202, segmentation={"size": [240, 320], "counts": "P8Z2:"})
    crowd = standing(4, id=203, iscrowd=1, keypoints=[0] * 51, num_keypoints=0)
    return [*plain, runs, packed, crowd, standing(5, id=204, keypoints=[0] * 51, num_keypoints=0)]


_ANNOTATIONS = document(_people())
IMAGES: list[Json] = _ANNOTATIONS["images"]
"""The images of the files."""

_DETECTIONS = [
    {"image_id": person["image_id"], "category_id": 1, "bbox": person["bbox"], "score": score}
    for person, score in zip(_people() * 3, np.linspace(0.05, 1, 30).tolist(), strict=True)
]


def mutated_annotations(number: int) -> bytes:
    """An annotation file with one to four changes."""
    return _mutated(number, _ANNOTATIONS)


def mutated_detections(number: int) -> bytes:
    """A detections file with one to four changes."""
    return _mutated(number, _DETECTIONS)


def _mutated(number: int, whole: object) -> bytes:
    generator = np.random.default_rng(number)
    changed = copy.deepcopy(whole)
    for _ in range(generator.integers(0, 4)):
        change_document(changed, generator)
    data = json.dumps(changed).encode()
    for _ in range(generator.integers(0, 3)):
        data = change_text(data, generator)
    return data


def change_document(value: object, generator: Generator) -> None:
    """Make one change within a value of JSON."""
    _pick(generator, (_replace, _replace, _scale, _remove, _repeat, _retype, _rle))(value, generator)


def change_text(data: bytes, generator: Generator) -> bytes:
    """The text with one change."""
    return _pick(generator, (_insert, _swap_word, _flip, _cut, _same))(data, generator)


def _pick(generator: Generator, choices: Sequence[T]) -> T:
    return choices[int(generator.integers(len(choices)))]


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Each container of the document with each of its keys or numbers."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        for key in keys:
            yield item, key
            waiting.append(item[key])  # type: ignore[index]


def _place(value: object, generator: Generator) -> tuple[Any, Any]:
    """A place; shallow ones are as frequent as the many coordinates."""
    places = list(_places(value))
    shallow = [place for place in places if not isinstance(place[0], list) or isinstance(place[0][0], dict | list)]
    return _pick(generator, shallow if shallow and generator.random() < 0.7 else places) if places else ([0], 0)


# --- changes of the document


def _hostile(generator: Generator) -> object:
    values: tuple[object, ...] = (
        float("nan"), float("inf"), 1e300, -1e300, 1e-60, 10**400, None, True, "", "1", "x" * 3000, [], {}, [[]], 0, -1, 0.5,
        2**63, 2.0**53, [1, 2, 3, 4], [[1, 2, 3, 4]], [[1e6] * 8], [[0, 0, 1, 1, 2, 2] * 2000], "/etc/passwd", "\ud800", 99999,
        {"size": [1, 1], "counts": [1]},
    )  # fmt: skip
    return _pick(generator, values)


def _replace(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    container[key] = _hostile(generator)


def _scale(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    if type(container[key]) in (int, float):
        container[key] *= _pick(generator, (-1, 0, 0.01, 1.5, 10, 1000, 1e12))


def _remove(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    del container[key]


def _repeat(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    if isinstance(container, list):
        # Not again and again: the file would have gigabytes.
        container.extend([copy.deepcopy(container[key])] * int(_pick(generator, (1, 2, 200)) if len(container) < 200 else 1))


def _retype(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    old = container[key]
    forms: tuple[object, ...] = (str(old), [old], {"value": old}, [old, old])
    container[key] = _pick(generator, forms)


def _rle(value: object, generator: Generator) -> None:
    container, key = _place(value, generator)
    if isinstance(container, dict) and "segmentation" in container:
        key = "segmentation"
    counts = _pick(generator, (*_RUNS, [1] * 76800, [76800], [0, 76800], [10**9], [-5, 76805], [76800.0], [1e308]))
    container[key] = {
        "size": _pick(generator, ([240, 320], [320, 240], [240.0, 320.0], [0, 0], [10**9, 10**9], None)),
        "counts": counts,
    }


# --- changes of the text


def _insert(data: bytes, generator: Generator) -> bytes:
    at = int(generator.integers(len(data) + 1))
    return data[:at] + _pick(generator, _WORDS).encode() + data[at:]


def _swap_word(data: bytes, generator: Generator) -> bytes:
    """Another piece of JSON in place of the number at a random place."""
    at = int(generator.integers(len(data) + 1))
    start = next((place for place in range(at, len(data)) if data[place : place + 1].isdigit()), len(data))
    end = next((place for place in range(start, len(data)) if data[place : place + 1] not in b"0123456789.e-"), len(data))
    return data[:start] + _pick(generator, _WORDS).encode() + data[end:]


def _flip(data: bytes, generator: Generator) -> bytes:
    changed = bytearray(data)
    for at in generator.integers(0, len(data), int(generator.integers(1, 4))) if data else ():
        changed[at] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _cut(data: bytes, generator: Generator) -> bytes:
    low, high = sorted(generator.integers(0, len(data) + 1, 2).tolist())
    return _pick(generator, (data[:low], data[low:], data[:low] + data[high:], data + data[low:high]))


def _same(data: bytes, _: Generator) -> bytes:
    return data
