"""Is a data set plausible: are joints in their boxes, boxes in their images, areas in pixels, masks not boxes?

The rules in ``stages/data/coco.py`` look at one annotation at a time. They accept joints that are fractions and boxes that are
corners. The checks here look at all usable instances of a set together. Each threshold says what is measured on clean data:
the 6,352 people of COCO val2017 with joints. ``poses.py`` looks at the joints of a person among each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stages.data.coco import Record
from stages.data.coco_file import CocoFile
from stages.data.segmentation import stray_outlines
from stages.findings import Finding
from stages.prepare.forms import reach_out
from stages.prepare.people import People
from stages.prepare.poses import implausible_poses
from stages.scoring.oks import tiny_area_share
from storage_schemas.errors import DataError, Remedy

__all__ = ["implausible"]

_MAX_LOST = 0.9
"""If a larger share of people has no joint in its box, no run can be right. With joints as fractions nearly all people have
none: only the boxes of people in the upper left corner hold such joints."""

_MIN_LOST = 2
"""One person alone proves nothing; then it is a warning."""

_MAX_PEOPLE_OUTSIDE = 0.01
"""The share of people without a joint in their box; in COCO there is none."""

_MAX_JOINTS_OUTSIDE = 0.05
"""The share of labelled joints outside of their box; in COCO it is 0.8 %."""

_BEYOND_PX = 2.0
"""How far a box may reach out of its image; in COCO it is less than a pixel. Some tools count pixels from 1."""

_MAX_BEYOND = 0.01
"""The share of boxes that reach further out; in COCO there is none."""

_MAX_BOX_MASKS = 0.5
"""The share of masks that fill a rectangle; in COCO none of 2,272 does."""

_BOX_MASKS_REMEDY = "The senior teacher learns nothing from them: use outlines of people, or leave 'segmentation' out"

_MAX_MASKS_AWAY = 0.02
"""The share of masks with their centre outside of the box of the crop; in COCO there is none."""

_AWAY_REMEDY = "Write 'segmentation' as x, y of each point in pixels of the image, like the box"


def implausible(coco: CocoFile, records: Sequence[Record], *, split: str, aspect_wh: float) -> list[Finding]:
    """What is probably wrong with the usable instances of a set; on clean data nothing.

    Raises:
        DataError: hardly any person has a joint in its box.
    """
    if not records:
        return []
    people = People.of(coco, records, aspect_wh=aspect_wh)
    _refuse_joints_outside(people, split)
    return [
        *_joints_outside(people, split),
        *_boxes_beyond(people, split),
        *_tiny_areas(people, split),
        *implausible_poses(people, split, coco.skeleton),
        *_masks(people, split),
        *_stray_outlines(people, split, coco),
    ]


def _refuse_joints_outside(people: People, split: str) -> None:
    if people.lost_N.mean() <= _MAX_LOST or people.lost_N.sum() < _MIN_LOST:
        return
    row = int(np.argmax(people.lost_N))
    raise DataError(
        f"{_count(people.lost_N)} people of the {split} set have no labelled joint in their box, "
        f"such as {_joints(people, row)}",
        allowed="'keypoints' and 'bbox' in pixels of the image, with the joints of a person in its box",
        remedy=Remedy("advice", text=_advice(people)),
    )


def _joints_outside(people: People, split: str) -> Iterator[Finding]:
    outside_NK = people.labelled_NK & ~people.inside_NK
    share = outside_NK.sum() / people.labelled_NK.sum()
    if people.lost_N.mean() <= _MAX_PEOPLE_OUTSIDE and share <= _MAX_JOINTS_OUTSIDE:
        return
    row = int(np.argmax(outside_NK.sum(axis=1)))
    yield Finding(
        kind="joints_outside",
        seen=f"{share:.1%} of the labelled joints of the {split} set are outside of their box, and "
        f"{_count(people.lost_N)} people have none in it, such as {_joints(people, row)}",
        remedy=_advice(people),
        count=int(outside_NK.sum()),
        of=int(people.labelled_NK.sum()),
        example=people.records[row].file_name,
    )


def _boxes_beyond(people: People, split: str) -> Iterator[Finding]:
    beyond_N = reach_out(people.box_N4, people.image_N2, _BEYOND_PX)
    if beyond_N.mean() <= _MAX_BEYOND:
        return
    row = int(np.argmax(beyond_N))
    record, (_, form) = people.records[row], people.likely_forms
    yield Finding(
        kind="boxes_beyond_image",
        seen=f"{_count(beyond_N)} boxes of the {split} set reach out of their image by more than {_BEYOND_PX:.0f} pixels, such "
        f"as {_box(people, row)} of {people.name(row)}, which is {record.width} x {record.height}",
        remedy=_advice(people) if form else "odkd clips them",
        count=int(beyond_N.sum()),
        of=len(beyond_N),
        example=record.file_name,
    )


def _tiny_areas(people: People, split: str) -> Iterator[Finding]:
    area_N = np.array([record.area for record in people.records])
    share = tiny_area_share(area_N, people.box_N4)
    # Boxes that are corners are too large, and then the areas may be right.
    if share is None or people.likely_forms[1]:
        return
    share_N = area_N / np.prod(people.box_N4[:, 2:], axis=1)
    row = int(np.argmin(np.abs(share_N - share)))
    yield Finding(
        kind="tiny_areas",
        seen=f"The median area of the {len(area_N)} people of the {split} set is {share:.2g} of the box, such as area "
        f"{area_N[row]:g} of {people.name(row)}, which has the box {_box(people, row)}; in COCO it is half of the box",
        remedy="Every AP is then near zero, since OKS divides distances by the area: write 'area' as the number of pixels of "
        "the person, or as width times height of the box",
        count=int((share_N <= share).sum()),
        of=len(area_N),
        example=people.records[row].file_name,
    )


def _masks(people: People, split: str) -> Iterator[Finding]:
    """Masks that are rectangles, and masks that are not where their person is."""
    masks = people.masks
    away_remedy = _advice(people) if people.likely_forms[1] else _AWAY_REMEDY
    away_M = ~people.in_crop(masks.row_M, masks.box_M4[:, :2] + masks.box_M4[:, 2:] / 2)
    for kind, found_M, most, what, remedy in (
        ("masks_are_boxes", masks.flat_M, _MAX_BOX_MASKS, "are rectangles", _BOX_MASKS_REMEDY),
        ("masks_elsewhere", away_M, _MAX_MASKS_AWAY, "have their centre outside of the person's box", away_remedy),
    ):
        if found_M.sum() > most * len(found_M):
            row = int(masks.row_M[np.argmax(found_M)])
            yield Finding(
                kind=kind,
                seen=f"{_count(found_M)} masks of the {split} set {what}, such as that of {people.name(row)}",
                remedy=remedy,
                count=int(found_M.sum()),
                of=len(found_M),
                example=people.records[row].file_name,
            )


def _stray_outlines(people: People, split: str, coco: CocoFile) -> Iterator[Finding]:
    outlines = {item["id"]: item.get("segmentation") for item in coco.annotations}
    strays = [
        stray_outlines(outlines[record.annotation_id], image_wh=(record.width, record.height)) for record in people.records
    ]
    rows = [row for row, faults in enumerate(strays) if faults]
    if rows:
        yield Finding(
            kind="stray_outlines",
            seen=f"{len(rows)} of {len(strays)} people of the {split} set have outlines that are left out "
            f"({sum(map(len, strays))} in all), such as {people.name(rows[0])}: {strays[rows[0]][0]}",
            remedy="The other outlines of these people are used: remove these from 'segmentation', or draw them again",
            count=len(rows),
            of=len(people.records),
            example=people.records[rows[0]].file_name,
        )


def _advice(people: People) -> str:
    """What to do about joints outside of their boxes, and boxes outside of their images."""
    joints, boxes = people.likely_forms
    if joints and boxes:
        return (
            f"Either the joints are {joints}, or the boxes are {boxes}. Draw an annotation on its image to see which is "
            "wrong, and change only this: write joints as x, y, and 'bbox' as x, y, width, height, in pixels of the image"
        )
    if joints:
        return f"The joints are probably {joints}; write them in pixels of the image, x before y"
    if boxes:
        return f"The boxes are probably {boxes}; write 'bbox' as x, y, width, height in pixels"
    points, counts = np.unique(people.xyv_NK3[people.labelled_NK & ~people.inside_NK, :2], axis=0, return_counts=True)
    if 2 * counts.max() > counts.sum() > 1:
        x, y = points[np.argmax(counts)]
        return f"Most of them are at ({x:g}, {y:g}): write v = 0 for joints without a label"
    return "Draw the joints and the box of this annotation on its image to see which of the two is wrong"


def _joints(people: People, row: int) -> str:
    """The annotation with its box and the extent of its joints."""
    xy_K2 = people.xyv_NK3[row, people.labelled_NK[row], :2]
    (left, top), (right, bottom) = xy_K2.min(axis=0), xy_K2.max(axis=0)
    return f"{people.name(row)}: box {_box(people, row)}, joints from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"


def _box(people: People, row: int) -> str:
    return f"[{', '.join(f'{value:g}' for value in people.box_N4[row])}]"


def _count(rows_N: npt.NDArray[np.bool_]) -> str:
    return f"{rows_N.sum()} of {len(rows_N)}"
