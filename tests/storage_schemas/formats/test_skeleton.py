"""Skeletons: decoding returns the encoded skeleton, and inconsistent parts raise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError
from storage_schemas.formats.skeleton import Skeleton
from tests.support.toy_skeleton import TOY_5


@pytest.mark.parametrize("skeleton", [COCO_17, TOY_5])
def test_a_skeleton_decodes_to_what_was_encoded(skeleton: Skeleton) -> None:
    assert Skeleton.decode(skeleton.encode()) == skeleton
    assert Skeleton.decode(skeleton.encode()).encode() == skeleton.encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keypoints", ()),
        ("keypoints", ("head", "head", "left_foot", "right_foot", "tail")),
        ("flip", (0, 2, 1)),
        ("flip", (1, 2, 0, 3, 4)),
        ("flip", (0, 2, 1, 4, 5)),
        ("sigmas", (0.1,)),
        ("sigmas", (0.1, 0.1, 0.0, 0.1, 0.1)),
        ("sigmas", (0.1, 0.1, float("nan"), 0.1, 0.1)),
        ("sigmas", (0.1, 0.1, float("inf"), 0.1, 0.1)),
        ("upper", (5,)),
        ("lower", (-1,)),
        ("limbs", ((0, 5),)),
    ],
)
def test_inconsistent_parts_raise_and_are_named(field: str, value: tuple[object, ...]) -> None:
    with pytest.raises(DataError, match=f"'toy_5' has {field}") as caught:
        replace(TOY_5, **{field: value})  # type: ignore[arg-type]  # any field, any value
    assert caught.value.allowed


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"3", TOY_5.encode().replace(b"sigmas", b"sigma")])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="not a skeleton"):
        Skeleton.decode(data)
