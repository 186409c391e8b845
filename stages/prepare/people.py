"""The usable instances of a set as arrays, and what their joints and boxes would be in another form.

Converters leave joints or boxes in the form of another format. If another form fits much better than COCO's, the file is
probably written in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stages.data.coco import Record
from stages.data.coco_file import CocoFile
from stages.pose.affine import box_to_center_size

__all__ = ["People"]

_FITS = 0.9
"""The least share of joints in their boxes with which a form fits. In COCO it is 99 %, in another form rarely half of it."""

_SLACK_PX = 2.0
"""How far a box may reach out of its image in a form that fits."""

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
        return self._inside(self.xyv_NK3[..., :2], self.box_N4)

    @cached_property
    def lost_N(self) -> Bools:
        """The instances of which no labelled joint lies in that box."""
        found: Bools = ~np.logical_or.reduce(self.inside_NK, axis=1)
        return found

    def in_crop(self, rows_M: npt.NDArray[np.int64], xy_M2: F64) -> Bools:
        """Whether a point lies in the box of the crop of each of these instances."""
        center_M2, size_M2 = box_to_center_size(self.box_N4[rows_M], aspect_wh=self.aspect_wh)
        found: Bools = np.logical_and.reduce(np.abs(xy_M2 - center_M2) <= size_M2 / 2, axis=1)
        return found

    def beyond(self, px: float, box_N4: F64 | None = None) -> Bools:
        """The instances whose box reaches out of the image by more than ``px`` pixels."""
        box_N4 = self.box_N4 if box_N4 is None else box_N4
        out_N2 = (box_N4[:, :2] < -px) | (box_N4[:, :2] + box_N4[:, 2:] > self.image_N2 + px)
        found: Bools = np.logical_or.reduce(out_N2, axis=1)
        return found

    def name(self, row: int) -> str:
        """The annotation and its image, for a message."""
        return f"annotation {self.records[row].annotation_id} in {self.records[row].file_name}"

    def better_joints(self) -> str | None:
        """The form of joints in which nearly all lie in their boxes; None if pixels fit as well, or nothing fits."""
        xy_NK2, image_N12, box_N14 = self.xyv_NK3[..., :2], self.image_N2[:, None], self.box_N4[:, None]
        forms = {
            "fractions of the image's width and height": xy_NK2 * image_N12,
            "percent of the image's width and height": xy_NK2 / 100 * image_N12,
            "y before x": xy_NK2[..., ::-1],
            "fractions of the box": xy_NK2 * box_N14[..., 2:] + box_N14[..., :2],
            "distances from the corner of the box": xy_NK2 + box_N14[..., :2],
        }
        return self._first_fit({name: self._inside(form, self.box_N4) for name, form in forms.items()}, self.inside_NK)

    def better_boxes(self) -> str | None:
        """The form of boxes in which nearly all lie in their images and hold their joints; None as above."""
        x_N, y_N, w_N, h_N = self.box_N4.T
        forms = {
            "two corners (x1, y1, x2, y2)": np.stack([x_N, y_N, w_N - x_N, h_N - y_N], axis=1),
            "centre, width and height": np.stack([x_N - w_N / 2, y_N - h_N / 2, w_N, h_N], axis=1),
            "y, x, height, width": np.stack([y_N, x_N, h_N, w_N], axis=1),
        }
        return self._first_fit({name: self._held(form) for name, form in forms.items()}, self._held(self.box_N4))

    def _held(self, box_N4: F64) -> Bools:
        """The labelled joints in boxes of this form that lie in their images."""
        return self._inside(self.xyv_NK3[..., :2], box_N4) & ~self.beyond(_SLACK_PX, box_N4)[:, None]

    def _inside(self, xy_NK2: F64, box_N4: F64) -> Bools:
        center_N2, size_N2 = box_to_center_size(np.maximum(box_N4, [-np.inf, -np.inf, 0, 0]), aspect_wh=self.aspect_wh)
        near_NK = np.logical_and.reduce(np.abs(xy_NK2 - center_N2[:, None]) <= size_N2[:, None] / 2, axis=-1)
        found: Bools = near_NK & self.labelled_NK & (np.min(box_N4[:, 2:], axis=1, keepdims=True) > 0)
        return found

    def _first_fit(self, fitting_NK: Mapping[str, Bools], now_NK: Bools) -> str | None:
        """The first form that fits and leaves less than half of the misfits of today's form.

        It need not be the best one: whatever is a fraction lies in the box if it is taken for a fraction of the box.
        """
        labelled = self.labelled_NK.sum()
        misfits = float(1 - now_NK.sum() / labelled)
        shares = {name: float(fitting.sum() / labelled) for name, fitting in fitting_NK.items()}
        return next((name for name, share in shares.items() if share >= _FITS and 1 - share < misfits / 2), None)
