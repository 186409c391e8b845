"""Image files made by the specifications: JPEG and PNG, with EXIF blocks, animations and other chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

__all__ = [
    "GREY",
    "PALETTE",
    "PNG_START",
    "RGB",
    "RGBA",
    "app",
    "by_opencv",
    "chunk",
    "chunks_of",
    "exif",
    "fdat",
    "frame_control",
    "jpeg",
    "noise",
    "png",
    "png_noise",
    "unturned",
    "with_chunks",
    "with_segment",
]

PNG_START = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6

U8 = npt.NDArray[np.uint8]


def noise(width: int, height: int) -> U8:
    image = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (7, 7), 2), np.uint8)


def by_opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> npt.NDArray[np.generic]:
    """The image in BGR order as OpenCV decodes it, by default with EXIF rotation."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert decoded is not None
    return decoded


def unturned(data: bytes) -> npt.NDArray[np.generic]:
    """The image in RGB order as OpenCV decodes it without EXIF rotation."""
    return by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]


# JPEG


def jpeg(width: int = 96, height: int = 64) -> bytes:
    return bytes(simplejpeg.encode_jpeg(noise(width, height), quality=90))


def app(number: int, content: bytes) -> bytes:
    """The JPEG segment APP0 to APP15."""
    return bytes((0xFF, 0xE0 + number)) + struct.pack(">H", len(content) + 2) + content


def with_segment(data: bytes, segment: bytes) -> bytes:
    """The JPEG with a segment at its beginning."""
    return data[:2] + segment + data[2:]


def exif(orientation: int, *, order: str = ">", kind: int = 3, number: int = 1) -> bytes:
    """A TIFF block of three entries, of which the second is the tag 0x0112, the orientation."""
    start = b"MM\0*" if order == ">" else b"II*\0"
    entries = [
        struct.pack(f"{order}HHII", 0x0100, 4, 1, 640),
        struct.pack(f"{order}HHIHH", 0x0112, kind, number, orientation, 0),
        struct.pack(f"{order}HHII", 0x0128, 4, 1, 2),
    ]
    return start + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)


# PNG


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by the specification; ``rows`` holds the samples, a whole number of bytes a row."""
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[start : start + stride] for start in range(0, len(rows), stride))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return PNG_START + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def png_noise(width: int = 24, height: int = 16) -> bytes:
    return png(width, height, depth=8, kind=RGB, rows=noise(width, height).tobytes())


def chunks_of(data: bytes) -> list[bytes]:
    """The chunks of an intact PNG."""
    found, position = [], len(PNG_START)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        found.append(data[position:end])
        position = end
    return found


def with_chunks(data: bytes, *, before: Sequence[bytes] = (), after: Sequence[bytes] = ()) -> bytes:
    """The PNG with chunks before its first IDAT and after its last."""
    chunks = chunks_of(data)
    places = [index for index, one in enumerate(chunks) if one[4:8] == b"IDAT"]
    first, last = places[0], places[-1] + 1
    return PNG_START + b"".join([*chunks[:first], *before, *chunks[first:last], *after, *chunks[last:]])


def frame_control(number: int, width: int, height: int, *, x: int = 0, y: int = 0) -> bytes:
    """The chunk fcTL of an animation (PNG specification, third edition, 11.3.6.2)."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, y, 1, 10, 0, 0))


def fdat(number: int, rows: bytes, height: int, *, row_filter: int = 0) -> bytes:
    """The chunk fdAT of an animation."""
    stride = len(rows) // height
    raw = b"".join(bytes((row_filter,)) + rows[start : start + stride] for start in range(0, len(rows), stride))
    return chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(raw))
