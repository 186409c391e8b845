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
from tests.support.errors import suggested

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
        (
            b'{"images": [{"id": 1, "id": 2}], "annotations": [], "categories": []}',
            "1 keys are repeated within an object: 'id'",
        ),
        (b'{"images": [], "images": []}', "1 keys are repeated within an object: 'images'"),
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
        (put("categories", keypoints={}), "has the keypoints {}"),
        (again("images"), "1 image ids are repeated: 1"),
        (again("annotations"), "1 annotation ids are repeated: 10"),
        (again("categories", name="dog"), "1 category ids are repeated: 1"),
        (put("images", id="1"), "1 image ids are not integers of 64 bits: '1'"),
        (put("annotations", id="10"), "1 annotation ids are not integers of 64 bits: '10'"),
        (put("annotations", id=2**63), "annotation ids are not integers of 64 bits: 9223372036854775808"),
        (put("annotations", id=10.5), "annotation ids are not integers of 64 bits: 10.5"),
        # Whole numbers beyond 2^53 are not exact as floats.
        (put("annotations", id=2.0**60), "annotation ids are not integers of 64 bits: 1.15"),
        (put("annotations", id=True), "annotation ids are not integers of 64 bits: True"),
        (put("annotations", id=None), "annotation ids are not integers of 64 bits: None"),
        (
            put("annotations", image_id=2),
            "1 annotations have an image_id without an image: 10; the first is 2 (of annotation 10)",
        ),
        (
            put("annotations", image_id="1"),
            "the image_id of 1 of 1 annotations is not an integer, such as '1' (of annotation 10)",
        ),
        (put("annotations", image_id=True), "is not an integer, such as True (of annotation 10)"),
        (put("annotations", image_id=[1]), "is not an integer, such as [1] (of annotation 10)"),
        (put("annotations", image_id=1.5), "is not an integer, such as 1.5 (of annotation 10)"),
        (lambda file: file["annotations"][0].pop("image_id"), "is not an integer, such as None (of annotation 10)"),
        (put("annotations", id=float("nan")), "NaN in annotation 0 (counted from 0)"),
        (put("annotations", image_id=float("-inf")), "-Infinity in annotation 0 (counted from 0), 'image_id'"),
        (put("images", width=float("nan")), "NaN in 'images'"),
    ],
)
def test_invalid_ids_references_and_sections_are_named(tmp_path: Path, change: Callable[[Json], object], reason: str) -> None:
    file = sound()
    change(file)
    assert reason in refusal(tmp_path / "a.json", json.dumps(file))


def test_fields_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    file = sound() | {"info": {"date": float("nan")}}
    file["annotations"][0] |= {"score": float("-inf"), "attributes": [float("nan")]}
    file["images"][0]["date_captured"] = float("nan")
    (tmp_path / "a.json").write_text(json.dumps(file))
    assert [item["id"] for item in read_coco(tmp_path / "a.json", COCO_17).annotations] == [10]


def test_other_joints_are_named_beside_those_that_are_expected(tmp_path: Path) -> None:
    file = sound()
    file["categories"][0]["keypoints"] = [f"point_of_{number}" for number in "abcdefghijklmnopq"]
    (tmp_path / "a.json").write_text(json.dumps(file))
    with pytest.raises(DataError) as caught:
        read_coco(tmp_path / "a.json", COCO_17)
    assert all(name in caught.value.seen for name in file["categories"][0]["keypoints"])
    assert all(name in caught.value.allowed for name in COCO_17.keypoints)
    # The step that is proposed helps, if the annotations are in COCO's order.
    assert "remove 'keypoints' from the category" in suggested(caught.value)
    del file["categories"][0]["keypoints"]
    (tmp_path / "a.json").write_text(json.dumps(file))
    assert read_coco(tmp_path / "a.json", COCO_17).skeleton == COCO_17


@pytest.mark.parametrize("nothing", [None, []])
def test_a_category_without_names_is_accepted(tmp_path: Path, nothing: object) -> None:
    file = sound()
    file["categories"][0]["keypoints"] = nothing
    (tmp_path / "a.json").write_text(json.dumps(file))
    assert read_coco(tmp_path / "a.json", COCO_17).skeleton == COCO_17


def test_the_first_of_many_bad_ids_are_named_and_all_are_counted(tmp_path: Path) -> None:
    file = sound()
    file["annotations"] += [{"id": key, "image_id": 9} for key in range(100, 125)]
    seen = refusal(tmp_path / "a.json", json.dumps(file))
    assert "25 annotations have an image_id without an image: 100, 101" in seen
    assert "109 and 15 more" in seen
