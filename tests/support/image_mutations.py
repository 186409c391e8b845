"""Damaged and hostile image files without end: the image of each number is made by a generator with this number as its seed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from tests.support.image_samples import (
    GREY,
    PALETTE,
    PNG_START,
    RGB,
    RGBA,
    app,
    chunk,
    chunks_of,
    exif,
    fdat,
    frame_control,
    jpeg,
    noise,
    png,
    png_noise,
    with_chunks,
    with_segment,
)

__all__ = ["mutated"]

T = TypeVar("T")
Generator = np.random.Generator
Change = Callable[[bytes, Generator], bytes]

_EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 32_767, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_NAMES = (
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"eXIf",
    b"iCCP",
    b"gAMA",
    b"tEXt",
    b"bKGD",
    b"prVt",
)


def mutated(number: int) -> bytes:
    """The image file of this number."""
    generator = np.random.Generator(np.random.Philox(key=np.array([number, 2024], np.uint64)))
    data = _one_of(_originals(), generator)
    is_png = data.startswith(PNG_START)
    for _ in range(int(generator.integers(1, 5))):
        data = _one_of((*_ANYWHERE, *(_IN_PNG if is_png else _IN_JPEG) * 2), generator)(data, generator)
    return _with_checksums(data) if is_png and generator.random() < 0.8 else data


@cache
def _originals() -> tuple[bytes, ...]:
    """JPEG and PNG files of every kind, about as many of each."""
    inks = np.dstack([noise(64, 48), noise(64, 48)[..., :1]]).copy()
    jpegs = [
        jpeg(64, 48),
        bytes(simplejpeg.encode_jpeg(noise(64, 48), colorsubsampling="420")),
        bytes(simplejpeg.encode_jpeg(noise(64, 48)[..., :1].copy(), colorspace="GRAY", colorsubsampling="Gray")),
        bytes(simplejpeg.encode_jpeg(inks, colorspace="CMYK")),
        *(cv2.imencode(".jpg", noise(64, 48), option)[1].tobytes() for option in ([2, 1], [4, 2], [3, 1, 2, 1])),
        with_segment(jpeg(64, 48), app(1, b"Exif\0\0" + exif(6))),
        with_segment(jpeg(64, 48), app(2, b"ICC_PROFILE\0\1\1" + bytes(99)) + app(14, b"Adobe\0\x64\0\0\0\0\1")),
    ]
    return (*jpegs, *_pngs())


def _pngs() -> list[bytes]:
    grey, still, rows = noise(48, 16)[..., 0].tobytes(), png_noise(), noise(24, 16)[::-1].tobytes()
    colours = chunk(b"PLTE", noise(16, 1).tobytes())
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    return [
        still,
        png(24, 16, depth=16, kind=GREY, rows=grey),
        png(48, 16, depth=8, kind=GREY, rows=grey),
        png(8, 16, depth=16, kind=RGB, rows=grey),
        png(12, 16, depth=8, kind=RGBA, rows=grey),
        png(6, 16, depth=16, kind=RGBA, rows=grey),
        png(96, 16, depth=4, kind=PALETTE, rows=grey, extra=colours + chunk(b"tRNS", bytes(range(9)))),
        interlaced(noise(24, 16)),
        with_chunks(still, before=[chunk(b"eXIf", exif(3)), chunk(b"gAMA", struct.pack(">I", 45_455))]),
        with_chunks(still, before=[control, frame_control(0, 24, 16)], after=[frame_control(1, 24, 16), fdat(2, rows, 16)]),
        with_chunks(still, before=[control], after=[frame_control(0, 24, 16), fdat(1, rows, 16, row_filter=9)]),
    ]


def interlaced(image_hw3: npt.NDArray[np.uint8]) -> bytes:
    """The image in seven passes (PNG specification, 8.2)."""
    height, width = image_hw3.shape[:2]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [image_hw3[top::down, left::right] for left, top, right, down in passes]
    raw = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 1))
    return PNG_START + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def _one_of(choices: Sequence[T], generator: Generator) -> T:
    return choices[int(generator.integers(len(choices)))]


# Changes of any bytes


def _place(data: bytes, generator: Generator) -> int:
    """Half of all changes are within the first 200 bytes, where headers are."""
    return int(generator.integers(min(len(data), 200) if generator.random() < 0.5 else len(data))) if data else 0


def _flip(data: bytes, generator: Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 6)) if data else 0):
        changed[_place(data, generator)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _overwrite(data: bytes, generator: Generator) -> bytes:
    at = _place(data, generator)
    new = generator.bytes(int(generator.integers(1, 40)))
    return data[:at] + new + data[at + len(new) :]


def _extreme(data: bytes, generator: Generator) -> bytes:
    at, value = _place(data, generator), _one_of(_EXTREMES, generator)
    new = struct.pack(">I", value) if generator.random() < 0.5 else struct.pack(">H", value & 65_535)
    return data[:at] + new + data[at + len(new) :]


def _cut(data: bytes, generator: Generator) -> bytes:
    return data[: int(generator.integers(len(data) + 1))]


def _remove(data: bytes, generator: Generator) -> bytes:
    at = _place(data, generator)
    return data[:at] + data[at + int(generator.integers(1, 100)) :]


def _insert(data: bytes, generator: Generator) -> bytes:
    at, number = _place(data, generator), int(generator.integers(1, 60))
    new = bytes(number) if generator.random() < 0.3 else generator.bytes(number)
    return data[:at] + new + data[at:]


def _repeat(data: bytes, generator: Generator) -> bytes:
    at, size = _place(data, generator), int(generator.integers(1, 200))
    return data[:at] + data[at : at + size] * int(generator.integers(2, 30)) + data[at + size :]


def _splice(data: bytes, generator: Generator) -> bytes:
    other = _one_of(_originals(), generator)
    return data[: _place(data, generator)] + other[_place(other, generator) :]


# Changes of a PNG


def _chunks(data: bytes) -> list[bytes]:
    """The chunks as far as lengths allow; the rest is the last one."""
    try:
        return [one for one in chunks_of(data) if len(one) >= 12]
    except struct.error:
        return []


def _with_checksums(data: bytes) -> bytes:
    return PNG_START + b"".join(one[:-4] + struct.pack(">I", zlib.crc32(one[4:-4])) for one in _chunks(data))


def _shuffle_chunks(data: bytes, generator: Generator) -> bytes:
    chunks = _chunks(data)
    moved = chunks[1:-1]
    generator.shuffle(moved)
    return PNG_START + b"".join([*chunks[:1], *moved, *chunks[-1:]])


def _add_chunk(data: bytes, generator: Generator) -> bytes:
    width, height, x = (int(generator.integers(0, 40)) for _ in range(3))
    new = _one_of(
        (
            chunk(b"acTL", struct.pack(">II", int(_one_of(_EXTREMES, generator)), 0)),
            frame_control(int(generator.integers(4)), width, height, x=x),
            chunk(b"fcTL", generator.bytes(int(generator.integers(0, 30)))),
            chunk(b"fdAT", generator.bytes(int(generator.integers(0, 8)))),
            fdat(int(generator.integers(4)), noise(24, 16).tobytes(), 16, row_filter=int(generator.integers(10))),
            chunk(b"IDAT", generator.bytes(int(generator.integers(0, 50)))),
            chunk(b"eXIf", _hostile_exif(generator)),
            chunk(_one_of(_NAMES, generator), generator.bytes(int(generator.integers(0, 50)))),
        ),
        generator,
    )
    chunks = _chunks(data)
    at = int(generator.integers(len(chunks) + 1))
    return PNG_START + b"".join([*chunks[:at], new, *chunks[at:]])


def _other_header(data: bytes, generator: Generator) -> bytes:
    """Another size, depth, kind or interlacing than the pixels have."""
    width, height = (int(_one_of((*_EXTREMES[:8], 16, 24, 9_999), generator)) for _ in range(2))
    kinds = [
        int(_one_of(values, generator)) for values in ((1, 2, 4, 8, 16, 3), (0, 2, 3, 4, 6, 1), (0, 0, 1), (0, 0, 1), (0, 1, 2))
    ]
    return data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *kinds)) + data[33:]


def _other_pixels(data: bytes, generator: Generator) -> bytes:
    """A changed stream of rows, compressed again."""

    def changed(one: bytes) -> bytes:
        try:
            raw = zlib.decompress(one[8:-4])
        except zlib.error:
            return one
        return chunk(b"IDAT", zlib.compress(_one_of(_ANYWHERE, generator)(raw, generator)))

    return PNG_START + b"".join(changed(one) if one[4:8] == b"IDAT" else one for one in _chunks(data))


# Changes of a JPEG


def _hostile_exif(generator: Generator) -> bytes:
    return _one_of((_flip, _extreme, _cut, _overwrite, _repeat), generator)(exif(int(generator.integers(10))), generator)


def _add_segment(data: bytes, generator: Generator) -> bytes:
    new = _one_of(
        (
            app(1, b"Exif\0\0" + _hostile_exif(generator)),
            app(int(generator.integers(16)), generator.bytes(int(generator.integers(0, 40)))),
            app(0, b"JFIF\0" + generator.bytes(9)),
            app(14, b"Adobe" + generator.bytes(7)),
            app(2, b"ICC_PROFILE\0" + generator.bytes(20)),
            bytes((0xFF, int(generator.integers(256)))) + generator.bytes(int(generator.integers(0, 20))),
        ),
        generator,
    )
    return with_segment(data, new)


def _at_marker(data: bytes, generator: Generator) -> bytes:
    """Bytes near a frame, a scan, a table or a restart become others."""
    markers = (b"\xff\xc0", b"\xff\xc2", b"\xff\xda", b"\xff\xc4", b"\xff\xdb", b"\xff\xd0", b"\xff\xdd")
    at = data.find(_one_of(markers, generator))
    if at < 0:
        return data
    at += int(generator.integers(0, 20))
    new = bytes((int(_one_of((0, 1, 2, 3, 4, 17, 34, 63, 255), generator)),))
    return data[:at] + new + data[at + 1 :]


def _repeat_scan(data: bytes, generator: Generator) -> bytes:
    at = data.rfind(b"\xff\xda")
    return data[:at] + data[at:-2] * int(generator.integers(2, 300)) + data[-2:] if at > 0 else data


_ANYWHERE: tuple[Change, ...] = (_flip, _overwrite, _extreme, _cut, _remove, _insert, _repeat, _splice)
_IN_PNG: tuple[Change, ...] = (_shuffle_chunks, _add_chunk, _add_chunk, _other_header, _other_pixels)
_IN_JPEG: tuple[Change, ...] = (_add_segment, _at_marker, _at_marker, _repeat_scan)
