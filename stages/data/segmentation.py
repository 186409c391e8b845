"""COCO segmentations to one form: compressed run lengths of the picture's size.

pycocotools trusts what it is given: run lengths that are too long write past their buffer, an outline that goes to 1e9
is traced pixel by pixel, four numbers are taken for a box. So everything is checked here before it gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["SegmentationError", "mask_rle"]

_MIN_OUTLINE_NUMBERS = 6
_MAX_OUTLINE_PX = 1_000_000
_MAX_RUN_BITS = 30


class SegmentationError(ValueError):
    """A segmentation that is neither polygons nor run lengths of this picture; its text is the reason."""


def mask_rle(segmentation: object, *, image_wh: tuple[int, int]) -> bytes | None:
    """Compressed run lengths of the mask, or None where there is no segmentation (absent, null or empty).

    Accepts COCO's three forms: a list of polygons [x0, y0, x1, y1, ...], run lengths as a list, and compressed ones.

    Raises:
        SegmentationError: none of the three, another picture's size, or a mask without a pixel.
    """
    if segmentation is None or segmentation in ([], {}):
        return None
    width, height = image_wh
    if isinstance(segmentation, list):
        pieces = coco_mask.frPyObjects(_checked_polygons(segmentation, image_wh), height, width)
        rle = coco_mask.merge(pieces)
    elif isinstance(segmentation, dict):
        counts = _checked_counts(segmentation, image_wh)
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    else:
        raise SegmentationError("neither polygons nor run lengths")
    if not coco_mask.area(rle):
        raise SegmentationError("covers no pixel")
    found: bytes = rle["counts"]
    return found


def _checked_polygons(polygons: Sequence[Any], image_wh: tuple[int, int]) -> list[list[float]]:
    """The outlines as they are, each of at least three points that lie within half a picture of the picture."""
    limits = [(-0.5 * side, 1.5 * side) for side in image_wh]
    for outline in polygons:
        if not isinstance(outline, list) or len(outline) < _MIN_OUTLINE_NUMBERS or len(outline) % 2:
            raise SegmentationError("a polygon is not a list of at least three points")
        if not all(type(value) in (int, float) for value in outline):
            raise SegmentationError("a polygon holds something that is not a number")
        for axis, (low, high) in enumerate(limits):
            # Written so that NaN fails it.
            if not all(low <= value <= high for value in outline[axis::2]):
                raise SegmentationError("a polygon goes far outside the picture")
        if _length_px(outline) > _MAX_OUTLINE_PX:
            raise SegmentationError("a polygon is too long to be an outline")
    return [list(map(float, outline)) for outline in polygons]


def _length_px(outline: list[float]) -> float:
    """About the steps that tracing takes: the longer side of each edge."""
    points = np.asarray(outline, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum())


def _checked_counts(segmentation: dict[str, Any], image_wh: tuple[int, int]) -> list[int]:
    """Run lengths, column by column and beginning with zeros, that fill the picture exactly."""
    width, height = image_wh
    if segmentation.get("size") != [height, width]:
        raise SegmentationError(f"run lengths are not of size [{height}, {width}]")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise SegmentationError("run lengths are not whole numbers from 0")
    if sum(counts) != width * height:
        raise SegmentationError(f"run lengths sum to {sum(counts)}, not to {width * height} pixels")
    return counts


def _decompressed(text: str) -> list[int]:
    """Run lengths from COCO's text form.

    Five bits a character from "0", lowest first, the sixth says that more follow, the last one's fifth bit is the sign;
    from the fourth number on each is the difference to the one two before (pycocotools, maskApi.c, rleFrString).
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise SegmentationError("run lengths hold a character that is not one of theirs")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _MAX_RUN_BITS:
            raise SegmentationError("run lengths hold a number that no picture has")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise SegmentationError("run lengths end in the middle of a number")
    return counts
