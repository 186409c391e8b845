"""An annotation file with invalid form, ids or references is refused as a whole, in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.data.coco import read_coco
from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError

Json = dict[str, Any]


def sound() -> Json:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [{"id": 10, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}],
    }


def refusal(path: Path, content: bytes | str) -> str:
    """The message of the error for the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_coco(path, COCO_17)
    assert str(path) in caught.value.seen
    assert caught.value.allowed
    assert len(caught.value.seen) < 1000
    return caught.value.seen


def test_a_valid_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.json").write_bytes(mark + json.dumps(sound()).encode())
        coco = read_coco(tmp_path / "a.json", COCO_17)
        assert (list(coco.images), [item["id"] for item in coco.annotations], coco.person_id) == ([1], [10], 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"images": [}', "is not JSON"),
        (b"\xff\xfe{\0}\0", "is not UTF-8 at byte 0"),
        (b'{"images": "\xe9"}', "is not UTF-8 at byte 12"),
        (b"[" * 200_000 + b"]" * 200_000, "is nested too deeply"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "is nested too deeply"),
        (b'{"images": ' + b"1" * 10_000 + b"}", "is not JSON"),
        (b"NaN", "is a JSON float"),
        (b"[]", "is a JSON list"),
        (b"{}", "has no list 'images'"),
        (b'{"images": {}}', "has no list 'images'"),
        (b'{"images": NaN, "annotations": [], "categories": []}', "NaN in 'images'"),
        (b'{"images": [1], "annotations": [], "categories": []}', "'images' has items that are not objects, at 0"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path / "a.json", content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_coco(path, COCO_17)


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(5 << 30)
    with pytest.raises(DataError, match="5368709120 bytes"):
        read_coco(tmp_path / "a.json", COCO_17)


def without(section: str) -> Callable[[Json], object]:
    return lambda file: file.pop(section)


def put(section: str, **changes: Any) -> Callable[[Json], object]:  # noqa: ANN401
    return lambda file: file[section][0].update(changes)


def again(section: str, **changes: Any) -> Callable[[Json], object]:  # noqa: ANN401
    return lambda file: file[section].append(file[section][0] | changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("annotations"), "has no list 'annotations'"),
        (without("categories"), "has no list 'categories'"),
        (put("categories", name="dog"), "0 categories are named 'person', of: 'dog'"),
        (lambda file: file["categories"].clear(), "0 categories are named 'person', of: none"),
        (again("categories", id=2), "2 categories are named 'person'"),
        (put("categories", keypoints=list(COCO_17.keypoints)[:14]), "has the keypoints"),
        (put("categories", keypoints=list(COCO_17.keypoints)[::-1]), "has the keypoints"),
        (put("categories", keypoints=7), "has the keypoints 7"),
        (again("images"), "1 image ids are repeated: 1"),
        (again("annotations"), "1 annotation ids are repeated: 10"),
        (again("categories", name="dog"), "1 category ids are repeated: 1"),
        (put("images", id="1"), "1 image ids are not integers of 64 bits: '1'"),
        (put("annotations", id="10"), "1 annotation ids are not integers of 64 bits: '10'"),
        (put("annotations", id=2**63), "annotation ids are not integers of 64 bits: 9223372036854775808"),
        (put("annotations", id=10.0), "annotation ids are not integers of 64 bits: 10.0"),
        (put("annotations", id=True), "annotation ids are not integers of 64 bits: True"),
        (put("annotations", id=None), "annotation ids are not integers of 64 bits: None"),
        (put("annotations", image_id=2), "1 annotations have an image_id without an image: 10"),
        (put("annotations", image_id="1"), "1 annotations have an image_id without an image: 10"),
        (put("annotations", image_id=True), "1 annotations have an image_id without an image: 10"),
        (put("annotations", image_id=[1]), "1 annotations have an image_id without an image: 10"),
        (put("annotations", id=float("nan")), "NaN in annotation 0 (counted from 0)"),
        (put("annotations", score=float("-inf")), "-Infinity in annotation 0 (counted from 0)"),
        (put("images", width=float("nan")), "NaN in 'images'"),
    ],
)
def test_invalid_ids_references_and_sections_are_named(tmp_path: Path, change: Callable[[Json], object], reason: str) -> None:
    file = sound()
    change(file)
    assert reason in refusal(tmp_path / "a.json", json.dumps(file))


def test_the_first_of_many_bad_ids_are_named_and_all_are_counted(tmp_path: Path) -> None:
    file = sound()
    file["annotations"] += [{"id": key, "image_id": 9} for key in range(100, 125)]
    seen = refusal(tmp_path / "a.json", json.dumps(file))
    assert "25 annotations have an image_id without an image: 100, 101" in seen
    assert "109 and 15 more" in seen
