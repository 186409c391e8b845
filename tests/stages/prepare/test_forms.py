"""Joints and boxes in each other form are read back as pixels, and the form that fits is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from stages.prepare.forms import box_forms, first_fit, held, inside, joint_forms, overlap, reach_out

F64 = npt.NDArray[np.float64]
IMAGE_N2 = np.array([(320.0, 240.0), (500.0, 375.0)])
BOX_N4 = np.array([(30.0, 20.0, 60.0, 120.0), (200.0, 50.0, 100.0, 80.0)])
XY_NK2 = np.array([[(40.0, 30.0), (80.0, 130.0)], [(210.0, 60.0), (290.0, 120.0)]])


SIDES = "the image's width and height"


def in_units(whole: float, *box: F64) -> tuple[F64, ...]:
    """The numbers of the boxes as shares of the images' sides."""
    return tuple(whole * number_N / side_N for number_N, side_N in zip(box, np.tile(IMAGE_N2, 2).T, strict=True))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("two corners (x1, y1, x2, y2)", lambda x, y, w, h: (x, y, x + w, y + h)),
        ("two corners (y1, x1, y2, x2)", lambda x, y, w, h: (y, x, y + h, x + w)),
        ("centre, width and height", lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)),
        ("y, x, height, width", lambda x, y, w, h: (y, x, h, w)),
        (f"x, y, width, height, in fractions of {SIDES}", lambda *box: in_units(1, *box)),
        (f"x, y, width, height, in percent of {SIDES}", lambda *box: in_units(100, *box)),
        (f"two corners (x1, y1, x2, y2), in percent of {SIDES}", lambda x, y, w, h: in_units(100, x, y, x + w, y + h)),
        (f"centre, width and height, in fractions of {SIDES}", lambda x, y, w, h: in_units(1, x + w / 2, y + h / 2, w, h)),
    ],
)
def test_boxes_in_another_form_are_read_back_as_pixels(name: str, write: Callable[..., tuple[F64, ...]]) -> None:
    forms = box_forms(np.stack(write(*BOX_N4.T), axis=1), IMAGE_N2)
    np.testing.assert_allclose(forms[name], BOX_N4)
    labelled_NK = np.ones((2, 2), np.bool_)
    fitting = {form: held(XY_NK2, box_N4, IMAGE_N2, aspect_wh=0.75) for form, box_N4 in forms.items()}
    assert first_fit(fitting, np.zeros((2, 2), np.bool_), labelled_NK) == name


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("fractions of the image's width and height", lambda xy: xy / IMAGE_N2[:, None]),
        ("percent of the image's width and height", lambda xy: 100 * xy / IMAGE_N2[:, None]),
        ("y before x", lambda xy: xy[..., ::-1]),
        ("fractions of the box", lambda xy: (xy - BOX_N4[:, None, :2]) / BOX_N4[:, None, 2:]),
        ("distances from the corner of the box", lambda xy: xy - BOX_N4[:, None, :2]),
    ],
)
def test_joints_in_another_form_are_read_back_as_pixels(name: str, write: Callable[[F64], F64]) -> None:
    np.testing.assert_allclose(joint_forms(write(XY_NK2), BOX_N4, IMAGE_N2)[name], XY_NK2)


def test_a_form_fits_only_if_it_leaves_less_than_half_of_the_misfits_of_today() -> None:
    every_NK, some_NK = np.ones((1, 20), np.bool_), np.arange(20)[None] < 19
    assert first_fit({"a": some_NK}, ~every_NK, every_NK) == "a"
    assert first_fit({"a": some_NK}, np.arange(20)[None] < 18, every_NK) is None
    assert first_fit({"a": some_NK}, every_NK, every_NK) is None
    # Joints without a label do not count.
    assert first_fit({"a": every_NK, "b": every_NK}, some_NK, some_NK) is None


def test_boxes_that_are_empty_hold_nothing_and_boxes_may_reach_a_little_out_of_their_image() -> None:
    empty_N4 = np.array([(10.0, 10.0, 0.0, 50.0), (10.0, 10.0, 20.0, -1.0)])
    assert not inside(np.full((2, 1, 2), 10.0), empty_N4, aspect_wh=0.75).any()
    box_N4 = np.array([(-2.0, 0.0, 324.0, 240.0), (0.0, -2.1, 10.0, 10.0)])
    assert reach_out(box_N4, IMAGE_N2).tolist() == [False, True]
    assert reach_out(box_N4, IMAGE_N2, 1.0).tolist() == [True, True]


def test_the_overlap_of_boxes_is_that_of_their_areas() -> None:
    other_N4 = np.array([(30.0, 80.0, 60.0, 120.0), (0.0, 0.0, 0.0, 0.0)])
    np.testing.assert_allclose(overlap(BOX_N4, other_N4), [1 / 3, 0])
    np.testing.assert_allclose(overlap(BOX_N4, BOX_N4), [1, 1])
