"""Where joints and boxes may be in another form, images and masks decide which of the two it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.coco_samples import IMAGE_WH, Json, document
from tests.support.plausible_samples import box, findings, found, joints, people, rectangle

WIDTH = IMAGE_WH[0]


def square(people: list[Json]) -> Json:
    """The same people on square images, in which joints and boxes with x and y exchanged lie too."""
    drawn = document(people)
    for image in drawn["images"]:
        image["height"] = WIDTH
    return drawn


def transposed(x: float, y: float, w: float, h: float) -> list[float]:
    return [y, x, h, w]


def transposed_corners(x: float, y: float, w: float, h: float) -> list[float]:
    return [y, x, y + h, x + w]


SWAPPED_JOINTS = joints(lambda x, y, _: (y, x))


@pytest.mark.parametrize("outlines", [True, False])
@pytest.mark.parametrize(
    ("write", "form", "undo"),
    [
        (transposed, "y, x, height, width", transposed),
        (transposed_corners, "two corners (y1, x1, y2, x2)", lambda a, b, c, d: [b, a, d - b, c - a]),
    ],
)
def test_boxes_with_y_before_x_that_leave_their_images_are_named_and_not_the_joints(
    tmp_path: Path,
    write: Callable[[float, float, float, float], list[float]],
    form: str,
    undo: Callable[[float, float, float, float], list[float]],
    outlines: bool,
) -> None:
    every = people(40, box(write))
    if not outlines:
        for person in every:
            person.pop("segmentation")
    seen = {finding.kind: finding.remedy for finding in found(tmp_path, every)}
    assert {"joints_outside", "boxes_beyond_image"} <= seen.keys()
    assert ("masks_elsewhere" in seen) == outlines
    assert set(seen.values()) == {f"The boxes are probably {form}; write 'bbox' as x, y, width, height in pixels"}
    for person in every:
        box(undo)(person)
    assert found(tmp_path, every) == []


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (box(transposed), "The boxes are probably y, x, height, width; "),
        (SWAPPED_JOINTS, "The joints are probably y before x; "),
    ],
)
def test_masks_decide_between_joints_and_boxes_where_the_image_does_not(
    tmp_path: Path, change: Callable[[Json], None], form: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(square(people(40, change))))
    assert [
        finding.remedy.partition("write")[0] for finding in findings(tmp_path / "a.json") if finding.kind == "joints_outside"
    ] == [form]


@pytest.mark.parametrize("change", [box(transposed), SWAPPED_JOINTS])
@pytest.mark.parametrize("outline", [..., "box"])
def test_where_nothing_decides_both_forms_are_named(tmp_path: Path, change: Callable[[Json], None], outline: object) -> None:
    every = people(40, change)
    for person in every:
        person.pop("segmentation")
        if outline == "box":
            person["segmentation"] = rectangle(*person["bbox"])
    (tmp_path / "a.json").write_text(json.dumps(square(every)))
    (finding,) = [finding for finding in findings(tmp_path / "a.json") if finding.kind == "joints_outside"]
    assert finding.remedy.startswith("Either the joints are y before x, or the boxes are y, x, height, width. Draw")
    # One of the two steps helps: it undoes the change.
    for person in every:
        change(person)
        person.pop("segmentation", None)
    (tmp_path / "a.json").write_text(json.dumps(square(every)))
    assert findings(tmp_path / "a.json") == []
