"""What an image file states before its pixels are decoded, and the error of a file that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stages.data.json_file import show

__all__ = ["MAX_PIXELS", "ImageError", "ImageHeader", "size_fault"]

MAX_PIXELS = 100_000_000
"""The largest image that is decoded; a larger one would use more than 300 MB."""

_MAX_SIDE = 32_766
"""OpenCV's warp counts the pixels of a row in 16 bits."""


class ImageError(ValueError):
    """An image that cannot be used; the text says why, for the quarantine."""


@dataclass(frozen=True)
class ImageHeader:
    """Format and size in pixels, from the header of a file."""

    format: Literal["jpeg", "png"]
    width: int
    height: int


def size_fault(width: object, height: object) -> str | None:
    """Why an image cannot have this size, or None."""
    # isinstance would accept True as an int.
    if type(width) is not int or type(height) is not int or width <= 0 or height <= 0:
        return f"{show(width)} x {show(height)}: width and height are not whole numbers above 0"
    if max(width, height) > _MAX_SIDE:
        return f"{show(width)} x {show(height)} has a side of more than {_MAX_SIDE} pixels"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels"
    return None
