"""JPEG files: their segments, and decoding that refuses whatever costs pixels and forgives the flaws that cost none.

libjpeg-turbo decodes damaged files too and then only warns, so simplejpeg raises at its warnings. But phones and webcams write
files that cause a warning although no pixel is lost. simplejpeg gives only the text of the first warning, and a later one may
report lost pixels. So no text decides: a copy of the file is mended, and it must decode without any warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from stages.data.image_header import ImageError, ImageHeader

__all__ = ["JPEG_START", "Segment", "decode_jpeg", "header_segments", "jpeg_segments", "probe_jpeg"]

JPEG_START = b"\xff\xd8"

_START_OF_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)
_APP0, _APP14 = 0xE0, 0xEE
_WITHOUT_EFFECT = (*range(0xE1, 0xEE), 0xEF, 0xFE)
"""Data of applications and comments. Of the former only JFIF (APP0) and Adobe (APP14) say something about pixels."""

_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_SEQUENTIAL_FRAMES = (0xC0, 0xC1, 0xC9)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker; FF 00 is the byte FF of compressed data, FF FF fills, and FF D0 to FF D7 restart within compressed data."""

_PADDING = re.compile(rb"(\xff\x00|[^\x00\xff])\x00++(?=\xff[\xd0-\xd7]|\Z)")
"""Zeros at the end of compressed data, with which some cameras fill up; the zero after FF is part of a byte of data."""

_MAX_MENDED_BYTES = 64 << 20
_MAX_PADDED = 100_000
_MAX_SEGMENTS = 10_000
_MAX_SCANS = 100
"""Encoders write about ten. Each scan of a few bytes can cost a pass over the whole image."""

_CMYK_ROWS = 64

U8 = npt.NDArray[np.uint8]


class Segment(NamedTuple):
    """A marker with its parameters: the bytes ``start`` to ``end`` of the file."""

    marker: int
    start: int
    end: int


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the end of the image, or up to the first one that the file does not hold whole."""
    position = len(JPEG_START)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if not found:
            return
        marker, position = data[found.end() - 1], found.end()
        if marker != _END and marker not in _WITHOUT_LENGTH:
            # libjpeg takes a length below 2, which is that of the length itself, for 2.
            position += max(2, int.from_bytes(data[position : position + 2]))
            if position > len(data):
                return
        yield Segment(marker, found.start(), position)
        if marker == _END:
            return


def header_segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the first scan, which is the last one."""
    for segment in jpeg_segments(data):
        yield segment
        if segment.marker == _START_OF_SCAN:
            return


def probe_jpeg(data: bytes) -> ImageHeader:
    """The size, read by the library that also decodes; raises ``ImageError`` if the header is broken."""
    width, height, _ = _probe(data)
    return ImageHeader("jpeg", width, height)


def decode_jpeg(data: bytes) -> U8:
    """The pixels in RGB order; raises ``ImageError`` if any may be lost."""
    width, height, colorspace = _probe(data)
    if bomb := _bomb(data, width, height):
        raise ImageError(f"decode: {bomb}")
    faults: list[ImageError] = []
    for candidate in chain([data], _mended(data)):
        try:
            return _strictly(candidate, colorspace)
        except ImageError as fault:
            faults.append(fault)
    # The fault that is left after the harmless ones are mended.
    raise faults[min(1, len(faults) - 1)]


def _probe(data: bytes) -> tuple[int, int, str]:
    """Width, height and colour space. Decoding repeats the warnings about the header, and is strict."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError as error:
        raise ImageError(f"header: {error}") from error
    except KeyError as error:
        # The header ends before simplejpeg knows the colour space.
        raise ImageError("header: it is incomplete") from error
    return int(width), int(height), str(colorspace)


def _strictly(data: bytes, colorspace: str) -> U8:
    """The pixels; raises ``ImageError`` at any warning."""
    is_cmyk = colorspace in ("CMYK", "YCCK")
    try:
        decoded: U8 = simplejpeg.decode_jpeg(data, colorspace="CMYK" if is_cmyk else "RGB", strict=True)
    except ValueError as error:
        raise ImageError(f"decode: {error}") from error
    return _rgb_of_cmyk(decoded) if is_cmyk else decoded


def _rgb_of_cmyk(cmyk_hw4: U8) -> U8:
    """CMYK is stored inverted. OpenCV's rule: a colour is the complement of its ink times the complement of black."""
    rgb_hw3 = np.empty((*cmyk_hw4.shape[:2], 3), np.uint8)
    # A few rows at a time: products need 16 bits, and those of a large image would need a gigabyte.
    for top in range(0, len(cmyk_hw4), _CMYK_ROWS):
        rows = cmyk_hw4[top : top + _CMYK_ROWS].astype(np.uint16)
        rgb_hw3[top : top + _CMYK_ROWS] = rows[..., :3] * rows[..., 3:] // 255
    return rgb_hw3


def _bomb(data: bytes, width: int, height: int) -> str | None:
    """Why decoding would take far more time or memory than the file is worth, or None."""
    header = list(header_segments(data))
    frame = _frame(header)
    if frame is None:
        return None
    # In a Huffman code each block of 8 x 8 pixels has at least one bit.
    if frame.marker in _HUFFMAN_FRAMES and -(-width // 8) * -(-height // 8) > 8 * len(data):
        return f"{len(data)} bytes cannot hold {width} x {height} pixels"
    scan = header[-1]
    components, scanned = data[frame.start + 9 : frame.start + 10], data[scan.start + 4 : scan.start + 5]
    # If the first scan has all colours, a sequential image is complete after it. Counting bytes is fast, and exact enough
    # for nearly all files: other data can look like scans.
    is_complete = frame.marker in _SEQUENTIAL_FRAMES and scanned == components
    if not is_complete and data.count(bytes((0xFF, _START_OF_SCAN))) > _MAX_SCANS:
        markers = [segment.marker for segment in jpeg_segments(data)]
        if markers.count(_START_OF_SCAN) > _MAX_SCANS or len(markers) == _MAX_SEGMENTS:
            return f"more than {_MAX_SCANS} scans, or than {_MAX_SEGMENTS} segments"
    return None


def _frame(segments: Iterable[Segment]) -> Segment | None:
    return next((segment for segment in segments if segment.marker in _FRAMES), None)


def _mended(data: bytes) -> Iterator[bytes]:
    """Copies without the flaws that cost no pixel; the second one also without padding."""
    segments = list(jpeg_segments(data)) if len(data) <= _MAX_MENDED_BYTES else []
    frame = _frame(segments)
    if frame is None or frame.end - frame.start < 10:
        return
    for with_padding in (True, False):
        pieces, end, in_scan = [JPEG_START], len(JPEG_START), False
        for segment in segments:
            # Bytes between segments belong to nothing, if they are no compressed data.
            between = data[end : segment.start] if in_scan else b""
            pieces.append(between if with_padding else _PADDING.sub(rb"\1", between, count=_MAX_PADDED))
            if segment.marker not in _WITHOUT_EFFECT:
                pieces.append(_repaired(data[segment.start : segment.end], data[frame.start : frame.end]))
            end, in_scan = segment.end, in_scan or segment.marker == _START_OF_SCAN
        yield b"".join([*pieces, data[end:]])


def _repaired(segment: bytes, frame: bytes) -> bytes:
    """The segment with the values that decoders use in place of wrong ones (libjpeg-turbo: jdhuff.c, jdapimin.c)."""
    marker, components = segment[1], frame[9]
    if marker == _START_OF_SCAN and frame[1] in _SEQUENTIAL_FRAMES and len(segment) > 7:
        # The first and last coefficient, and two bit positions: a sequential scan always has all of them.
        return segment[:-3] + b"\x00\x3f\x00"
    if marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) > 9:
        # Revision 1: the others do not exist.
        return segment[:9] + b"\x01" + segment[10:]
    if marker == _APP14 and segment[4:9] == b"Adobe" and len(segment) > 15:
        default = {3: 1, 4: 2}.get(components, 0)
        # How colours are stored: 0 as they are, or by default as luminance and two differences.
        return segment if segment[15] in (0, default) else segment[:15] + bytes((default,)) + segment[16:]
    return segment
