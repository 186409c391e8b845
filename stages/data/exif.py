"""The EXIF orientation of JPEG and PNG files: how a viewer turns or mirrors the stored pixels, which ``odkd`` does not.

The parser reads this one tag (0x0112; EXIF 2.32, 4.6.4) and trusts no offset and no length.
"""

from __future__ import annotations

import struct

from stages.data.image_header import ImageError
from stages.data.jpeg import JPEG_START, header_segments
from stages.data.png import PNG_START, is_sound, png_chunks

__all__ = ["UPRIGHT", "keeps_size", "orientation_of", "turns_size"]

UPRIGHT = 1
"""The orientation of an image that is shown as it is stored; also of one without a readable tag."""

_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3
_TURNED = (5, 6, 7, 8)


def turns_size(orientation: int) -> bool:
    """Whether a viewer exchanges width and height."""
    return orientation in _TURNED


def keeps_size(orientation: int, size_wh: tuple[int, int]) -> bool:
    """Whether a viewer turns or mirrors an image of ``size_wh``, and its size does not show it."""
    return orientation != UPRIGHT and (not turns_size(orientation) or size_wh[0] == size_wh[1])


def orientation_of(data: bytes) -> int:
    """The orientation, 1 to 8, that browsers obey: one SHORT in the first directory of the first EXIF block."""
    return _of_tiff(_exif_of_jpeg(data) if data.startswith(JPEG_START) else _exif_of_png(data))


def _exif_of_jpeg(data: bytes) -> bytes:
    for segment in header_segments(data):
        if segment.marker == _APP1 and data.startswith(_EXIF, segment.start + 4):
            return data[segment.start + 4 + len(_EXIF) : segment.end]
    return b""


def _exif_of_png(data: bytes) -> bytes:
    if not data.startswith(PNG_START):
        return b""
    try:
        found = next((chunk for chunk in png_chunks(data) if chunk.name == b"eXIf"), None)
    except ImageError:
        return b""
    return data[found.start + 8 : found.end - 4] if found and is_sound(data, found) else b""


def _of_tiff(block: bytes) -> int:
    order = _BYTE_ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return UPRIGHT
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return UPRIGHT
    (count,) = struct.unpack_from(f"{order}H", block, start)
    # Each entry: tag, kind of value, number of values, and the value itself in the first of four bytes.
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, number, value = struct.unpack_from(f"{order}HHIH", block, at)
        if tag == _ORIENTATION:
            return value if (kind, number) == (_SHORT, 1) and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
