"""The usable instances of a set as arrays, and the form in which their joints or boxes are probably written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from stages.data.coco import Record
from stages.data.coco_file import CocoFile
from stages.pose.affine import box_to_center_size
from stages.prepare.forms import box_forms, first_fit, held, inside, joint_forms, overlap, reach_out

__all__ = ["Masks", "People"]

_MAX_OUT = 0.01
"""The share of joints, or of boxes, out of their images that speaks against them; in COCO there is none."""

_BETTER_OVERLAP = 0.1
"""How much better the masks have to fit one form of boxes than the other. In COCO boxes are those of the masks."""

_AT_ONCE = 200
"""pycocotools 2.0 fails on lists of more than 255 masks."""

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Masks:
    """The M masks of a set: the rows of their instances, their bounding rectangles (x, y, w, h), and their pixels."""

    row_M: npt.NDArray[np.int64]
    box_M4: F64
    area_M: F64

    @cached_property
    def flat_M(self) -> Bools:
        """The masks that fill their rectangle."""
        return np.asarray(self.area_M == self.box_M4[:, 2] * self.box_M4[:, 3])


@dataclass(frozen=True, eq=False)
class People:
    """The usable instances of a set. N instances, K joints; boxes are (x, y, w, h) as annotated, not clipped."""

    records: Sequence[Record]
    box_N4: F64
    image_N2: F64
    """Width and height of the image."""
    xyv_NK3: F64
    aspect_wh: float

    @classmethod
    def of(cls, coco: CocoFile, records: Sequence[Record], *, aspect_wh: float) -> People:
        """The arrays of the records; there must be one at least."""
        # Annotations that are no records may lack a box.
        box_of = {annotation["id"]: annotation.get("bbox") for annotation in coco.annotations}
        return cls(
            records,
            np.array([box_of[record.annotation_id] for record in records], np.float64),
            np.array([(record.width, record.height) for record in records], np.float64),
            np.stack([record.keypoints_K3 for record in records]).astype(np.float64),
            aspect_wh,
        )

    @cached_property
    def labelled_NK(self) -> Bools:
        """The joints with a label."""
        return self.xyv_NK3[..., 2] > 0

    @cached_property
    def inside_NK(self) -> Bools:
        """The labelled joints that lie in the box of their crop, which is a quarter larger than the annotated one."""
        found: Bools = inside(self.xyv_NK3[..., :2], self.box_N4, aspect_wh=self.aspect_wh) & self.labelled_NK
        return found

    @cached_property
    def lost_N(self) -> Bools:
        """The instances of which no labelled joint lies in that box."""
        found: Bools = ~np.logical_or.reduce(self.inside_NK, axis=1)
        return found

    @cached_property
    def masks(self) -> Masks:
        """The masks of those instances that have one."""
        rows = [row for row, record in enumerate(self.records) if record.mask_rle is not None]
        every = [
            {"size": [record.height, record.width], "counts": record.mask_rle} for record in (self.records[row] for row in rows)
        ]
        boxes, areas = [np.zeros((0, 4))], [np.zeros(0)]
        for start in range(0, len(every), _AT_ONCE):
            boxes.append(coco_mask.toBbox(every[start : start + _AT_ONCE]))
            areas.append(coco_mask.area(every[start : start + _AT_ONCE]))
        return Masks(np.array(rows, np.int64), np.concatenate(boxes), np.concatenate(areas))

    def in_crop(self, rows_M: npt.NDArray[np.int64], xy_M2: F64) -> Bools:
        """Whether a point lies in the box of the crop of each of these instances."""
        center_M2, size_M2 = box_to_center_size(self.box_N4[rows_M], aspect_wh=self.aspect_wh)
        found: Bools = np.logical_and.reduce(np.abs(xy_M2 - center_M2) <= size_M2 / 2, axis=1)
        return found

    def name(self, row: int) -> str:
        """The annotation and its image, for a message."""
        return f"annotation {self.records[row].annotation_id} in {self.records[row].file_name}"

    @cached_property
    def likely_forms(self) -> tuple[str | None, str | None]:
        """The forms in which the joints, or the boxes, are probably written; None if COCO's form fits as well, or none fits.

        If a form of joints and a form of boxes fit, images and masks decide which of the two it is. If they do not, both forms
        are possible, and only one of them is right.
        """
        xy_NK2, forms = self.xyv_NK3[..., :2], box_forms(self.box_N4, self.image_N2)
        joints = first_fit(
            {
                name: inside(form, self.box_N4, aspect_wh=self.aspect_wh)
                for name, form in joint_forms(xy_NK2, self.box_N4, self.image_N2).items()
            },
            self.inside_NK,
            self.labelled_NK,
        )
        boxes = first_fit({name: self._held(form) for name, form in forms.items()}, self._held(self.box_N4), self.labelled_NK)
        if joints is None or boxes is None:
            return joints, boxes
        boxes_wrong = self._boxes_leave_images()
        if boxes_wrong is None:
            boxes_wrong = self._masks_fit(forms[boxes])
        return (None if boxes_wrong is True else joints), (None if boxes_wrong is False else boxes)

    def _held(self, box_N4: F64) -> Bools:
        return held(self.xyv_NK3[..., :2], box_N4, self.image_N2, aspect_wh=self.aspect_wh)

    def _boxes_leave_images(self) -> bool | None:
        """True if boxes reach out of their images and joints do not, False if it is the other way round, None otherwise."""
        boxes = reach_out(self.box_N4, self.image_N2).mean() > _MAX_OUT
        outside_NK = np.logical_or.reduce(self.xyv_NK3[..., :2] > self.image_N2[:, None], axis=-1) & self.labelled_NK
        joints = outside_NK.sum() > _MAX_OUT * self.labelled_NK.sum()
        return bool(boxes) if boxes != joints else None

    def _masks_fit(self, box_N4: F64) -> bool | None:
        """Whether the masks fit these boxes better than the annotated ones; None if they fit both, or there is no mask.

        Masks that are rectangles do not count, since they may have been drawn from the boxes.
        """
        masks = self.masks
        row_M, mask_M4 = masks.row_M[~masks.flat_M], masks.box_M4[~masks.flat_M]
        if not len(row_M):
            return None
        now, form = (float(overlap(mask_M4, some_N4[row_M]).mean()) for some_N4 in (self.box_N4, box_N4))
        return form > now if abs(form - now) > _BETTER_OVERLAP else None
