"""Reading a COCO annotation file: form, ids and references must be valid, or the whole file is refused.

The rules are at the top of ``coco.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from stages.data.joint_names import names_fault
from stages.data.json_file import Json, few, read_json, show, whole
from storage_schemas.errors import DataError, Remedy
from storage_schemas.formats.skeleton import Skeleton

__all__ = ["CocoFile", "Json", "read_coco", "show"]

_INT64 = range(-(1 << 63), 1 << 63)
_WHAT = "annotation file"
_SHOWN_PARTS = 10
_SHOWN_NAMES = 24

_WHOLE = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "iscrowd", "num_keypoints"),
    "categories": ("id",),
}
"""The fields of each section that hold whole numbers."""

_FINITE = {"images": ("id", "width", "height"), "annotations": ("id", "image_id"), "categories": ("id",)}
"""The fields in which NaN or Infinity costs the whole file; in others it costs the annotation, or is not read."""

_OPTIONAL = ("iscrowd", "num_keypoints")
"""Fields of annotations that may be missing; null and NaN, which some tools write for a missing value, count as missing."""


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
    images, annotations, categories = (_section(document, name, annotations_path) for name in _WHOLE)
    _check_ids(images, "image", annotations_path)
    _check_ids(annotations, "annotation", annotations_path)
    _check_ids(categories, "category", annotations_path)
    by_id = {image["id"]: image for image in images}
    _check_references(annotations, by_id, annotations_path)
    category_ids = frozenset(category["id"] for category in categories)
    person_id = _person_category(categories, annotations_path, skeleton)
    return CocoFile(annotations_path, by_id, annotations, category_ids, person_id, skeleton)


def _refuse(path: Path, seen: str, allowed: str, advice: str = "") -> NoReturn:
    remedy = Remedy("advice", text=advice) if advice else None
    raise DataError(f"The {_WHAT} {path}: {seen}", allowed=allowed, remedy=remedy)


def _parse(path: Path) -> Json:
    document, literals = read_json(path, what=_WHAT, allowed="a COCO keypoints file")
    if not isinstance(document, dict):
        _refuse(path, f"is a JSON {type(document).__name__}, not an object", "a COCO keypoints file; a results file is a list")
    if literals and (found := list(_not_finite_parts(document))):
        _refuse(
            path,
            f"{literals[0]} in {', '.join(found[:_SHOWN_PARTS])}",
            "finite numbers in the fields that odkd reads; annotations with NaN in bbox, area or keypoints are quarantined",
        )
    return document


def _not_finite_parts(document: Json) -> Iterator[str]:
    """The parts of the document with NaN or Infinity in one of the fields above, or in place of a section."""
    for name, fields in _FINITE.items():
        section = document.get(name)
        if _is_not_finite(section):
            yield f"'{name}'"
        label = "annotation" if name == "annotations" else f"'{name}', item"
        for number, item in enumerate(section if isinstance(section, list) else ()):
            found = [field for field in fields if isinstance(item, dict) and _is_not_finite(item.get(field))]
            if found:
                yield f"{label} {number} (counted from 0), '{found[0]}'"


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _section(document: Json, name: str, path: Path) -> list[Json]:
    """The items of a section, in which whole numbers that are written as floats, such as 320.0, become integers."""
    section = document.get(name)
    if not isinstance(section, list):
        _refuse(path, f"has no list '{name}'", "a COCO keypoints file with images, annotations and categories")
    wrong = [number for number, item in enumerate(section) if not isinstance(item, dict)]
    if wrong:
        _refuse(path, f"'{name}' has items that are not objects, at {few(wrong)} (counted from 0)", "a list of objects")
    for item in section:
        for field in _WHOLE[name]:
            value = item.get(field)
            if type(value) is float:
                item[field] = whole(value)
            if field in _OPTIONAL and (value is None or _is_nan(value)):
                item.pop(field, None)
    return section


def _check_ids(items: Sequence[Json], what: str, path: Path) -> None:
    wrong = [item.get("id") for item in items if type(item.get("id")) is not int or item["id"] not in _INT64]
    if wrong:
        _refuse(path, f"{len(wrong)} {what} ids are not integers of 64 bits: {few(wrong)}", "integers of 64 bits")
    repeated = [key for key, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        _refuse(path, f"{len(repeated)} {what} ids are repeated: {few(repeated)}", "each id once")


def _check_references(annotations: Sequence[Json], images: Mapping[int, Json], path: Path) -> None:
    # Check the type before looking an id up: a list cannot be hashed, and True equals 1.
    wrong = [item for item in annotations if type(item.get("image_id")) is not int]
    if wrong:
        first = f"{show(wrong[0].get('image_id'))} (of annotation {wrong[0]['id']})"
        _refuse(
            path,
            f"the image_id of {len(wrong)} of {len(annotations)} annotations is not an integer, such as {first}",
            "the id of an image, which is an integer",
            "write image_id as a number: the id of an image of this file",
        )
    strays = [item for item in annotations if item["image_id"] not in images]
    if strays:
        first, known = f"{strays[0]['image_id']} (of annotation {strays[0]['id']})", few(list(images))
        _refuse(
            path,
            f"{len(strays)} annotations have an image_id without an image: {few([item['id'] for item in strays])}; "
            f"the first is {first}",
            f"the id of an image, such as {known}" if images else "the id of an image; the file has no images",
        )


def _person_category(categories: Sequence[Json], path: Path, skeleton: Skeleton) -> int:
    persons = [category for category in categories if category.get("name") == "person"]
    if len(persons) != 1:
        names = few([category.get("name") for category in categories])
        _refuse(path, f"{len(persons)} categories are named 'person', of: {names or 'none'}", "exactly one category 'person'")
    given = persons[0].get("keypoints")
    named = given is not None and given != []
    if named and (fault := names_fault(given if isinstance(given, list) else [given], skeleton)):
        names = few(given, _SHOWN_NAMES) if isinstance(given, list) else show(given)
        _refuse(
            path,
            f"the category 'person' has the keypoints {names}: {fault.text}",
            f"the {skeleton.num_keypoints} of '{skeleton.name}': {', '.join(skeleton.keypoints)}",
            fault.advice,
        )
    person_id: int = persons[0]["id"]
    return person_id
