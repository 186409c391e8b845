"""PNG files: their chunks, and decoding of the chunks that make the pixels.

The decoder gets no other chunk. Animations (APNG: acTL, fcTL, fdAT) can end the process in OpenCV 5.0; without these chunks
the image is the one that the PNG specification calls the static image. No other chunk changes the pixels that OpenCV returns.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stages.data.image_header import ImageError, ImageHeader

__all__ = ["PNG_START", "Chunk", "decode_png", "is_sound", "png_chunks", "probe_png"]

PNG_START = b"\x89PNG\r\n\x1a\n"

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_CHUNKS = 1_000_000
_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

U8 = npt.NDArray[np.uint8]


class Chunk(NamedTuple):
    """A chunk: the bytes ``start`` to ``end`` of the file are its length, name, content and checksum."""

    name: bytes
    start: int
    end: int

    @property
    def is_critical(self) -> bool:
        """Whether no image can be shown without it: its name begins with no small letter (PNG specification, 5.4)."""
        return not self.name[:1].islower()


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks up to IEND; raises ``ImageError`` if they do not end there."""
    position = len(PNG_START)
    for _ in range(_MAX_CHUNKS):
        length, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise ImageError("decode: a truncated PNG")
        yield Chunk(name, position, end)
        if name == b"IEND":
            return
        position = end
    raise ImageError(f"decode: a PNG of more than {_MAX_CHUNKS} chunks")


def is_sound(data: bytes, chunk: Chunk) -> bool:
    """Whether the chunk has the checksum that it states."""
    view = memoryview(data)[chunk.start : chunk.end]
    return zlib.crc32(view[4:-4]) == int.from_bytes(view[-4:])


def probe_png(data: bytes) -> ImageHeader:
    """The size; raises ``ImageError`` if the header is broken."""
    # The first chunk is IHDR: length 13, name, width, height, 5 bytes of kinds, checksum (PNG specification, 11.2.2).
    header = data[8:33]
    if len(header) < 25 or header[:8] != b"\x00\x00\x00\x0dIHDR":
        raise ImageError("header: a PNG without IHDR")
    if zlib.crc32(header[4:21]) != int.from_bytes(header[21:25]):
        raise ImageError("header: IHDR's checksum is wrong")
    width, height = struct.unpack(">II", header[8:16])
    return ImageHeader("png", width, height)


def decode_png(data: bytes) -> U8:
    """The pixels in RGB order; raises ``ImageError`` if any may be lost."""
    try:
        decoded = cv2.imdecode(np.frombuffer(_pixel_chunks(data), np.uint8), _READ)
    except cv2.error as error:
        raise ImageError(f"decode: {error.err}") from error
    if decoded is None:
        raise ImageError("decode: OpenCV cannot decode this PNG")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _pixel_chunks(data: bytes) -> bytes:
    """The file with the chunks that make the pixels only, each of which has the right checksum."""
    pieces, previous = [PNG_START], b""
    for chunk in png_chunks(data):
        if not is_sound(data, chunk):
            if chunk.is_critical:
                raise ImageError(f"decode: the checksum of PNG chunk {chunk.name!r} is wrong")
        elif chunk.name in _PIXELS:
            if chunk.name == b"IDAT" != previous and any(piece[4:8] == b"IDAT" for piece in pieces):
                raise ImageError("decode: another chunk between the IDAT chunks of a PNG")
            pieces.append(data[chunk.start : chunk.end])
        elif chunk.is_critical:
            raise ImageError(f"decode: the PNG chunk {chunk.name!r} is unknown, and the image cannot be shown without it")
        previous = chunk.name
    return b"".join(pieces)
