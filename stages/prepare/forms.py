"""Other forms of joints and boxes: converters leave them in the form of another format.

If another form fits much better than COCO's, the file is probably written in it. N instances, K joints; boxes are
(x, y, w, h).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from stages.pose.affine import box_to_center_size

__all__ = ["box_forms", "first_fit", "held", "inside", "joint_forms", "overlap", "reach_out"]

_FITS = 0.9
"""The least share of joints in their boxes with which a form fits. In COCO it is 99 %, in another form rarely half of it."""

_SLACK_PX = 2.0
"""How far a box may reach out of its image in a form that fits."""

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def joint_forms(xy_NK2: F64, box_N4: F64, image_N2: F64) -> dict[str, F64]:
    """The joints in pixels, if they are written in one of these forms; ``image_N2`` is (w, h)."""
    image_N12, box_N14 = image_N2[:, None], box_N4[:, None]
    return {
        "fractions of the image's width and height": xy_NK2 * image_N12,
        "percent of the image's width and height": xy_NK2 / 100 * image_N12,
        "y before x": xy_NK2[..., ::-1],
        "fractions of the box": xy_NK2 * box_N14[..., 2:] + box_N14[..., :2],
        "distances from the corner of the box": xy_NK2 + box_N14[..., :2],
    }


def box_forms(box_N4: F64, image_N2: F64) -> dict[str, F64]:
    """The boxes as (x, y, w, h) in pixels, if they are written in one of these forms; ``image_N2`` is (w, h)."""
    forms = _orders(box_N4)
    for unit, whole in (("fractions", 1.0), ("percent", 100.0)):
        scaled_N4 = box_N4 / whole * np.tile(image_N2, 2)
        forms |= {f"{name}, in {unit} of the image's width and height": form for name, form in _orders(scaled_N4).items()}
    return forms


def _orders(box_N4: F64) -> dict[str, F64]:
    """The boxes as (x, y, w, h), if their numbers mean something else; corners come first, since other data rarely fit them."""
    a_N, b_N, c_N, d_N = box_N4.T
    return {
        "two corners (x1, y1, x2, y2)": np.stack([a_N, b_N, c_N - a_N, d_N - b_N], axis=1),
        "two corners (y1, x1, y2, x2)": np.stack([b_N, a_N, d_N - b_N, c_N - a_N], axis=1),
        "x, y, width, height": box_N4,
        "centre, width and height": np.stack([a_N - c_N / 2, b_N - d_N / 2, c_N, d_N], axis=1),
        "y, x, height, width": np.stack([b_N, a_N, d_N, c_N], axis=1),
    }


def inside(xy_NK2: F64, box_N4: F64, *, aspect_wh: float) -> Bools:
    """Whether a joint lies in the box of the crop, which is a quarter larger than ``box_N4``; never in an empty box."""
    center_N2, size_N2 = box_to_center_size(np.maximum(box_N4, [-np.inf, -np.inf, 0, 0]), aspect_wh=aspect_wh)
    near_NK = np.logical_and.reduce(np.abs(xy_NK2 - center_N2[:, None]) <= size_N2[:, None] / 2, axis=-1)
    found: Bools = near_NK & (np.min(box_N4[:, 2:], axis=1, keepdims=True) > 0)
    return found


def reach_out(box_N4: F64, image_N2: F64, px: float = _SLACK_PX) -> Bools:
    """Whether a box reaches out of its image (w, h) by more than ``px`` pixels."""
    out_N2 = (box_N4[:, :2] < -px) | (box_N4[:, :2] + box_N4[:, 2:] > image_N2 + px)
    found: Bools = np.logical_or.reduce(out_N2, axis=1)
    return found


def held(xy_NK2: F64, box_N4: F64, image_N2: F64, *, aspect_wh: float) -> Bools:
    """The joints in boxes that lie in their images."""
    found: Bools = inside(xy_NK2, box_N4, aspect_wh=aspect_wh) & ~reach_out(box_N4, image_N2)[:, None]
    return found


def first_fit(forms: Mapping[str, Bools], now_NK: Bools, labelled_NK: Bools) -> str | None:
    """The first form that fits and leaves less than half of the misfits of today's form; None if there is none.

    ``forms`` says which joints fit in each form. The first one need not be the best one: all fractions lie in the box if they
    are read as fractions of the box.
    """
    labelled = labelled_NK.sum()
    misfits = float(1 - (now_NK & labelled_NK).sum() / labelled)
    shares = {name: float((fitting_NK & labelled_NK).sum() / labelled) for name, fitting_NK in forms.items()}
    return next((name for name, share in shares.items() if share >= _FITS and 1 - share < misfits / 2), None)


def overlap(one_N4: F64, other_N4: F64) -> F64:
    """The intersection over union of two boxes each; 0 for an empty box."""
    low_N2 = np.maximum(one_N4[:, :2], other_N4[:, :2])
    high_N2 = np.minimum(one_N4[:, :2] + one_N4[:, 2:], other_N4[:, :2] + other_N4[:, 2:])
    both_N = np.prod(np.maximum(high_N2 - low_N2, 0), axis=1)
    one_N, other_N = (np.prod(np.maximum(box_N4[:, 2:], 0), axis=1) for box_N4 in (one_N4, other_N4))
    return np.asarray(both_N / np.maximum(one_N + other_N - both_N, np.finfo(np.float64).tiny))
