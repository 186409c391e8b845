"""Polygons and run lengths become one form that pycocotools can read safely; all else raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from stages.data.segmentation import SegmentationError, mask_rle, stray_outlines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def pixels(rle: bytes | None, width: int, height: int) -> npt.NDArray[np.uint8]:
    assert rle is not None
    return np.asarray(coco_mask.decode({"size": [height, width], "counts": rle}), np.uint8)


def run_lengths(mask_hw: npt.NDArray[np.uint8]) -> list[int]:
    """Runs of equal pixels down the columns, beginning with zeros."""
    counts, last = [0], 0
    for value in mask_hw.T.ravel().tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


# pycocotools would take four numbers for a box.
@pytest.mark.parametrize("nothing", [None, [], {}, [[]], [[], []], [[1, 1]], [[1, 1, 3, 3]], [[], [1, 1, 3, 3]], [[1, 1, 3]]])
def test_no_segmentation_and_outlines_of_less_than_three_points_have_no_mask(nothing: object) -> None:
    assert mask_rle(nothing, image_wh=(4, 3)) is None


@pytest.mark.parametrize(
    ("stray", "fault"),
    [
        ([2, 2], "three points"),
        ([0, 0, 5, 4], "three points"),
        ([float("nan")], "three points"),
        ([None, None], "three points"),
        (None, "three points"),
        ([1, 1, 4, 1, 4, 3, 1], "three points: 7 numbers"),
        ([1, 1, 4, 1, 4, "3"], "not numbers"),
        ([1e6, 1, 1e6, 4, 4, 3], "far outside"),
        ([0, 0, 8, 6] * 200_000, "too long"),
        ({"x": 1}, "three points"),
        ([[1, 1], [4, 1]], "not numbers"),
    ],
)
def test_an_outline_that_cannot_be_used_costs_only_itself_beside_a_good_one(stray: object, fault: str) -> None:
    outline = [1, 1, 4, 1, 4, 3, 1, 3]
    alone = mask_rle([outline], image_wh=(6, 5))
    assert mask_rle([outline, stray], image_wh=(6, 5)) == mask_rle([stray, outline], image_wh=(6, 5)) == alone
    (found,) = stray_outlines([outline, [], stray], image_wh=(6, 5))
    assert fault in found


@pytest.mark.parametrize(
    "empty",
    [
        [[2, 2, 2, 2, 2, 2]],
        [[1, 1, 2, 1, 3, 1]],
        [None],
        {"size": [6, 8], "counts": [48]},
        {"size": [6, 8], "counts": []},
        {"size": [6, 8], "counts": ""},
    ],
)
def test_a_segmentation_without_a_pixel_is_no_mask(empty: object) -> None:
    assert mask_rle(empty, image_wh=(8, 6)) is None


def test_only_polygons_have_stray_outlines() -> None:
    others: list[object] = [None, [], [[]], {"size": [2, 2], "counts": [4]}, "x", 7]
    assert [stray_outlines(other, image_wh=(6, 5)) for other in others] == [[]] * 6


def test_whole_numbers_may_be_written_as_floats() -> None:
    whole = {"size": [2, 3], "counts": [1, 2, 3]}
    floats = {"size": [2.0, 3.0], "counts": [1.0, 2.0, 3.0]}
    assert mask_rle(floats, image_wh=(3, 2)) == mask_rle(whole, image_wh=(3, 2))


def test_a_rectangle_covers_the_pixels_between_its_corners() -> None:
    mask_hw = pixels(mask_rle([[1, 1, 4, 1, 4, 3, 1, 3]], image_wh=(6, 5)), 6, 5)
    expected = np.zeros((5, 6), np.uint8)
    expected[1:3, 1:4] = 1
    np.testing.assert_array_equal(mask_hw, expected)


def test_several_polygons_are_one_mask() -> None:
    first, second = [0, 0, 2, 0, 2, 2, 0, 2], [4, 3, 6, 3, 6, 5, 4, 5]
    mask_hw = pixels(mask_rle([first, second], image_wh=(6, 5)), 6, 5)
    assert mask_hw.sum() == 8
    assert mask_hw[:2, :2].all()
    assert mask_hw[3:, 4:].all()


def test_run_lengths_go_down_the_columns_and_begin_with_zeros() -> None:
    # 3 x 2 image (w, h): columns (0, 1), (1, 0), (0, 0) are 1 zero, 2 ones, 3 zeros.
    mask_hw = pixels(mask_rle({"size": [2, 3], "counts": [1, 2, 3]}, image_wh=(3, 2)), 3, 2)
    np.testing.assert_array_equal(mask_hw, [[0, 1, 0], [1, 0, 0]])


@settings(max_examples=100)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)))
def test_both_kinds_of_run_lengths_decode_to_the_mask(mask_hw: npt.NDArray[np.uint8]) -> None:
    height, width = mask_hw.shape
    text = coco_mask.encode(np.asfortranarray(mask_hw))["counts"].decode()
    for counts in (run_lengths(mask_hw), text):
        segmentation = {"size": [height, width], "counts": counts}
        if mask_hw.any():
            np.testing.assert_array_equal(pixels(mask_rle(segmentation, image_wh=(width, height)), width, height), mask_hw)
        else:
            assert mask_rle(segmentation, image_wh=(width, height)) is None


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("polygon", "neither"),
        (7, "neither"),
        ([[1, 1, 3, 1, 3, 3, 1]], "three points"),
        ([1, 1, 3, 1, 3, 3], "three points"),
        ([[1, 1, 3, 1, 3, "3"]], "not numbers"),
        ([[[1, 1], [3, 1], [3, 3]]], r"not numbers: \[\[1, 1\], \[3, 1\], \[3, 3\]\]"),
        ([[{"x": 1, "y": 1}]], "not numbers"),
        ([[1, 1, 3, 1, 3, None]], "not numbers"),
        ([[1, 1, 3, 1, 3, True]], "not numbers"),
        ([[1, 1, 3, 1, 3, float("nan")]], "far outside"),
        ([[1, 1, 3, 1, 3, float("inf")]], "far outside"),
        ([[1, 1, 1e9, 1, 3, 3]], "far outside"),
        ([[1, 1, 10**400, 1, 3, 3]], "far outside"),
        ([[-1e9, 1, 3, 1, 3, 3]], "far outside"),
        ([[0, 0, 8, 6] * 200_000], "too long"),
        ({"size": [8, 6], "counts": [48]}, "size"),
        ({"counts": [48]}, "size"),
        ({"size": [6, 8]}, "whole numbers"),
        ({"size": [6, 8], "counts": 5}, "whole numbers"),
        ({"size": [6, 8], "counts": [20, 20]}, "sum to 40, not to 48"),
        ({"size": [6, 8], "counts": [0, 10**9]}, "sum to"),
        ({"size": [6, 8], "counts": [20, -4, 32]}, "whole numbers"),
        ({"size": [6, 8], "counts": [20.5, 27.5]}, "whole numbers"),
        ({"size": [6, 8], "counts": ["20", 28]}, "whole numbers"),
        ({"size": [6, 8], "counts": [1, 10**4299] * 20}, "sum to a number of thousands of digits"),
        ({"size": [6, 8], "counts": "o"}, "middle of a number"),
        ({"size": [6, 8], "counts": "\u00e9"}, "character"),
        ({"size": [6, 8], "counts": " "}, "character"),
        ({"size": [6, 8], "counts": "o" * 100_000}, "larger than any image"),
    ],
)
def test_malformed_segmentations_raise_with_the_reason(segmentation: Any, reason: str) -> None:  # noqa: ANN401
    with pytest.raises(SegmentationError, match=reason):
        mask_rle(segmentation, image_wh=(8, 6))


@settings(max_examples=200)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12))
def test_any_text_is_a_mask_of_the_images_size_or_raises(text: str) -> None:
    try:
        rle = mask_rle({"size": [6, 8], "counts": text}, image_wh=(8, 6))
    except SegmentationError:
        return
    assert rle is None or pixels(rle, 8, 6).any()
