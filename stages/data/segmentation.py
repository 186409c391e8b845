"""COCO segmentations in one form: compressed run lengths of the image's size.

pycocotools does not check its input: too long run lengths write past their buffer, an outline up to 1e9 is traced pixel by
pixel, and four numbers are read as a box. So this module checks segmentations first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from stages.data.json_file import show, whole

__all__ = ["SegmentationError", "mask_rle", "stray_outlines"]

_MIN_OUTLINE_NUMBERS = 6
_MAX_OUTLINE_PX = 1_000_000
_MAX_RUN_BITS = 30
_FEW_POINTS = "a polygon is not a list of at least three points"


class SegmentationError(ValueError):
    """A segmentation that is neither polygons nor run lengths of this image; the text says why."""


def mask_rle(segmentation: object, *, image_wh: tuple[int, int]) -> bytes | None:
    """Compressed run lengths of the mask, or None without a mask: no segmentation (absent, null or empty), or no pixel in it.

    Accepts COCO's three forms: a list of polygons [x0, y0, x1, y1, ...], run lengths as a list, and compressed ones.
    ``stray_outlines`` are left out.

    Raises:
        SegmentationError: none of the three, another size than the image's, or polygons of which none can be used.
    """
    if segmentation is None or segmentation in ([], {}):
        return None
    width, height = image_wh
    if isinstance(segmentation, list):
        polygons = _usable_polygons(segmentation, image_wh)
        if not polygons:
            return None
        pieces = coco_mask.frPyObjects(polygons, height, width)
        rle = coco_mask.merge(pieces)
    elif isinstance(segmentation, dict):
        if segmentation.get("counts") in ([], ""):
            return None
        counts = _checked_counts(segmentation, image_wh)
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    else:
        raise SegmentationError("neither polygons nor run lengths")
    if not coco_mask.area(rle):
        return None
    found: bytes = rle["counts"]
    return found


def stray_outlines(segmentation: object, *, image_wh: tuple[int, int]) -> list[str]:
    """The faults of the polygons that ``mask_rle`` leaves out; an empty one is no polygon."""
    outlines = segmentation if isinstance(segmentation, list) else []
    faults = [_FEW_POINTS if _encloses_nothing(outline) else _fault(outline, image_wh) for outline in outlines if outline != []]
    return [fault for fault in faults if fault]


def _usable_polygons(segmentation: Sequence[Any], image_wh: tuple[int, int]) -> list[list[float]]:
    """The polygons without a fault, as floats; raises if all polygons that may enclose something have a fault."""
    outlines = [outline for outline in segmentation if not _encloses_nothing(outline)]
    faults = [_fault(outline, image_wh) for outline in outlines]
    if faults and all(faults):
        raise SegmentationError(faults[0])
    return [list(map(float, outline)) for outline, fault in zip(outlines, faults, strict=True) if fault is None]


def _encloses_nothing(outline: object) -> bool:
    """Whether this is null, or a polygon of fewer than three points. Points that are lists are of another format."""
    if outline is None:
        return True
    if not isinstance(outline, list) or len(outline) >= _MIN_OUTLINE_NUMBERS:
        return False
    return not any(isinstance(value, list | dict) for value in outline)


def _fault(outline: object, image_wh: tuple[int, int]) -> str | None:
    """Why an outline is no polygon of at least three points that lies at most half an image outside of the image, or None."""
    if not isinstance(outline, list):
        return f"{_FEW_POINTS}: {show(outline)}"
    if not all(type(value) in (int, float) for value in outline):
        return f"a polygon has values that are not numbers: {show(outline)}"
    if len(outline) % 2:
        return f"{_FEW_POINTS}: {len(outline)} numbers"
    # NaN fails this comparison too.
    if not all(-0.5 * side <= value <= 1.5 * side for axis, side in enumerate(image_wh) for value in outline[axis::2]):
        return "a polygon is far outside of the image"
    return "a polygon is too long to be an outline" if _length_px(outline) > _MAX_OUTLINE_PX else None


def _length_px(outline: list[float]) -> float:
    """Approximate number of pixels that pycocotools traces: the longer side of each edge."""
    points = np.asarray(outline, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum())


def _checked_counts(segmentation: dict[str, Any], image_wh: tuple[int, int]) -> list[int]:
    """Run lengths that fill the image exactly, in column order, starting with zeros."""
    width, height = image_wh
    if segmentation.get("size") != [height, width]:
        raise SegmentationError(f"run lengths are not of size [{height}, {width}]")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if isinstance(counts, list):
        counts = list(map(whole, counts))
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise SegmentationError("run lengths are not whole numbers from 0")
    if sum(counts) != width * height:
        raise SegmentationError(f"run lengths sum to {show(sum(counts))}, not to {width * height} pixels")
    return counts


def _decompressed(text: str) -> list[int]:
    """Decode run lengths from COCO's text form (pycocotools, maskApi.c, rleFrString).

    Each character holds five bits of a number, the lowest first, as an offset from "0". Its sixth bit is set if more
    characters follow; the fifth bit of the last one is the sign. From the fourth number on, each number is the difference
    from the number two before it.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise SegmentationError("run lengths have a character outside of their alphabet")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _MAX_RUN_BITS:
            raise SegmentationError("run lengths have a number larger than any image")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise SegmentationError("run lengths end in the middle of a number")
    return counts
