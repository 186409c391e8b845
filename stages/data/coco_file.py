"""Reading a COCO annotation file: form, ids and references must be valid, or the whole file is refused.

The rules are at the top of ``coco.py``.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from storage_schemas.errors import DataError
from storage_schemas.formats.skeleton import Skeleton

__all__ = ["CocoFile", "Json", "read_coco", "show"]

_MAX_FILE_BYTES = 4 << 30
_INT64 = range(-(1 << 63), 1 << 63)
_MAY_BE_NAN = ("bbox", "area", "keypoints", "segmentation")
_SHOWN_IDS = 10

Json = dict[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """An annotation file with valid ids and references: ``images`` by id, ``annotations`` in the order of the file."""

    path: Path
    images: Mapping[int, Json]
    annotations: Sequence[Json]
    category_ids: frozenset[int]
    person_id: int
    skeleton: Skeleton


def read_coco(annotations_path: Path, skeleton: Skeleton) -> CocoFile:
    """Read a COCO keypoints file whose instances have the keypoints of ``skeleton``.

    Raises:
        DataError: the whole file is refused; the rules are at the top of ``coco.py``.
    """
    document = _parse(annotations_path)
    images, annotations, categories = (
        _section(document, name, annotations_path) for name in ("images", "annotations", "categories")
    )
    _check_ids(images, "image", annotations_path)
    _check_ids(annotations, "annotation", annotations_path)
    _check_ids(categories, "category", annotations_path)
    by_id = {image["id"]: image for image in images}
    # Check the type before looking an id up: a list cannot be hashed, and True and 1.0 equal 1.
    strays = [item["id"] for item in annotations if type(item.get("image_id")) is not int or item["image_id"] not in by_id]
    if strays:
        _refuse(
            annotations_path,
            f"{len(strays)} annotations have an image_id without an image: {_few(strays)}",
            "the id of an image",
        )
    category_ids = frozenset(category["id"] for category in categories)
    person_id = _person_category(categories, annotations_path, skeleton)
    return CocoFile(annotations_path, by_id, annotations, category_ids, person_id, skeleton)


def show(value: object) -> str:
    """A value from the file as text, shortened if it is long or deeply nested."""
    return reprlib.repr(value)


def _refuse(path: Path, seen: str, allowed: str) -> NoReturn:
    raise DataError(f"The annotation file {path}: {seen}", allowed=allowed)


def _parse(path: Path) -> Json:
    literals: list[str] = []

    def not_finite(name: str) -> float:
        literals.append(name)
        return float(name)

    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            _refuse(path, f"{path.stat().st_size} bytes", f"at most {_MAX_FILE_BYTES} bytes; split the data set")
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=not_finite)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}", "a file that this user may read")
    except UnicodeDecodeError as error:
        _refuse(path, f"is not UTF-8 at byte {error.start}", "JSON in UTF-8")
    except RecursionError:
        _refuse(path, "is nested too deeply", "a COCO keypoints file")
    except ValueError as error:
        _refuse(path, f"is not JSON: {error}", "a COCO keypoints file")
    if not isinstance(document, dict):
        _refuse(path, f"is a JSON {type(document).__name__}, not an object", "a COCO keypoints file; a results file is a list")
    if literals and (found := list(_not_finite_parts(document))):
        _refuse(
            path,
            f"{literals[0]} in {', '.join(found[:_SHOWN_IDS])}",
            f"finite numbers; only annotations with NaN in {', '.join(_MAY_BE_NAN)} are quarantined",
        )
    return document


def _not_finite_parts(document: Json) -> Iterator[str]:
    """The parts of the document with NaN or Infinity in fields that no later rule checks."""
    annotations = document.get("annotations")
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else ()):
        # Later rules quarantine annotations with such values in the other fields.
        rest = (
            {key: value for key, value in annotation.items() if key not in _MAY_BE_NAN}
            if isinstance(annotation, dict)
            else annotation
        )
        if _holds_not_finite(rest):
            yield f"annotation {number} (counted from 0)"
    for name, value in document.items():
        if _holds_not_finite(value) and not (name == "annotations" and isinstance(value, list)):
            yield f"'{name}'"


def _holds_not_finite(value: object) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, float) and not np.isfinite(item):
            return True
    return False


def _section(document: Json, name: str, path: Path) -> list[Json]:
    section = document.get(name)
    if not isinstance(section, list):
        _refuse(path, f"has no list '{name}'", "a COCO keypoints file with images, annotations and categories")
    wrong = [number for number, item in enumerate(section) if not isinstance(item, dict)]
    if wrong:
        _refuse(path, f"'{name}' has items that are not objects, at {_few(wrong)} (counted from 0)", "a list of objects")
    return section


def _check_ids(items: Sequence[Json], what: str, path: Path) -> None:
    wrong = [item.get("id") for item in items if type(item.get("id")) is not int or item["id"] not in _INT64]
    if wrong:
        _refuse(path, f"{len(wrong)} {what} ids are not integers of 64 bits: {_few(wrong)}", "integers of 64 bits")
    repeated = [key for key, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        _refuse(path, f"{len(repeated)} {what} ids are repeated: {_few(repeated)}", "each id once")


def _person_category(categories: Sequence[Json], path: Path, skeleton: Skeleton) -> int:
    persons = [category for category in categories if category.get("name") == "person"]
    if len(persons) != 1:
        names = _few([category.get("name") for category in categories])
        _refuse(path, f"{len(persons)} categories are named 'person', of: {names or 'none'}", "exactly one category 'person'")
    given, expected = persons[0].get("keypoints"), skeleton.keypoints
    # Other spellings are fine. Another number or order of keypoints would silently train a wrong network.
    reordered = isinstance(given, list) and set(map(str, given)) == set(expected) and given != list(expected)
    if given is not None and (not isinstance(given, list) or len(given) != len(expected) or reordered):
        _refuse(
            path,
            f"the category 'person' has the keypoints {show(given)}",
            f"the {len(expected)} of '{skeleton.name}': {', '.join(expected)}",
        )
    person_id: int = persons[0]["id"]
    return person_id


def _few(values: Sequence[object]) -> str:
    more = f" and {len(values) - _SHOWN_IDS} more" if len(values) > _SHOWN_IDS else ""
    return ", ".join(show(value) for value in values[:_SHOWN_IDS]) + more
