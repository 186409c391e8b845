"""PNG files: the decoder gets the chunks that make the pixels, with right checksums; animations give their static image."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.data.images import ImageError, decode_image
from stages.data.png import decode_png, png_chunks, probe_png
from tests.support.image_samples import (
    GREY,
    PALETTE,
    PNG_START,
    RGB,
    RGBA,
    chunk,
    chunks_of,
    exif,
    fdat,
    frame_control,
    noise,
    png,
    png_noise,
    unturned,
    with_chunks,
)

ROOT = Path(__file__).parents[3]
RED, SIZE = np.full((16, 24, 3), (200, 10, 30), np.uint8), (24, 16)
STILL = png_noise(*SIZE)
TWO_FRAMES = chunk(b"acTL", struct.pack(">II", 2, 0))
ROWS = RED.tobytes()


def with_checksum(broken: bytes) -> bytes:
    return broken[:-4] + struct.pack(">I", zlib.crc32(broken[4:-4]))


ANIMATIONS = {
    "a static image before the animation": with_chunks(
        STILL,
        before=[TWO_FRAMES],
        after=[frame_control(0, *SIZE), fdat(1, ROWS, 16), frame_control(2, *SIZE), fdat(3, ROWS, 16)],
    ),
    "the static image is the first frame": with_chunks(
        STILL, before=[TWO_FRAMES, frame_control(0, *SIZE)], after=[frame_control(1, *SIZE), fdat(2, ROWS, 16)]
    ),
    "an empty frame": with_chunks(STILL, before=[TWO_FRAMES], after=[frame_control(0, *SIZE), chunk(b"fdAT", b"")]),
    "a frame of three bytes": with_chunks(
        STILL, before=[TWO_FRAMES], after=[frame_control(0, *SIZE), chunk(b"fdAT", b"\0\0\1")]
    ),
    "a frame with a wrong filter": with_chunks(
        STILL, before=[TWO_FRAMES], after=[frame_control(0, *SIZE), fdat(1, ROWS, 16, row_filter=9)]
    ),
    "a frame before its control": with_chunks(STILL, before=[TWO_FRAMES], after=[fdat(0, ROWS, 16), frame_control(1, *SIZE)]),
    "data before the control": with_chunks(STILL, after=[TWO_FRAMES, frame_control(0, *SIZE), fdat(1, ROWS, 16)]),
    "a frame outside of the image": with_chunks(
        STILL, before=[TWO_FRAMES, frame_control(0, 24, 16, x=2**31 - 1, y=2**31 - 1)], after=[fdat(1, ROWS, 16)]
    ),
    "billions of frames": with_chunks(
        STILL, before=[chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), frame_control(0, *SIZE)]
    ),
}


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_is_its_static_image(kind: str) -> None:
    np.testing.assert_array_equal(decode_image(ANIMATIONS[kind], expect_wh=SIZE), noise(*SIZE))


_OPENCV = "import sys, cv2, numpy; cv2.imdecode(numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8), cv2.IMREAD_COLOR)"


@pytest.mark.skipif(not cv2.__version__.startswith("5.0."), reason="the fault of OpenCV 5.0 that this module avoids")
def test_such_an_animation_ends_the_process_in_opencv() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPENCV], input=ANIMATIONS["a frame with a wrong filter"], check=False, cwd=ROOT
    )
    assert done.returncode < 0


WITHOUT_EFFECT = {
    "gAMA": struct.pack(">I", 20_000),
    "cHRM": struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000),
    "sRGB": b"\0",
    "sBIT": bytes((3, 3, 3)),
    "iCCP": b"profile\0\0" + zlib.compress(bytes(200)),
    "cICP": bytes((9, 16, 0, 1)),
    "bKGD": struct.pack(">HHH", 9, 9, 9),
    "tRNS": struct.pack(">HHH", 9, 9, 9),
    "pHYs": struct.pack(">IIB", 1, 2, 0),
    "tIME": struct.pack(">HBBBBB", 2024, 2, 30, 0, 0, 0),
    "eXIf": exif(6),
    "tEXt": b"Comment\0x",
    "zTXt": b"Comment\0\0" + zlib.compress(bytes(1_000_000)),
    "prVt": b"of an application",
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_no_other_chunk_changes_a_pixel(name: str) -> None:
    data = with_chunks(STILL, before=[chunk(name.encode(), WITHOUT_EFFECT[name])])
    np.testing.assert_array_equal(decode_png(data), noise(*SIZE))
    np.testing.assert_array_equal(unturned(data), noise(*SIZE))


def grey(depth: int) -> bytes:
    return png(24, 16, depth=depth, kind=GREY, rows=noise(3 * depth, 16)[..., 0].tobytes())


COLOURS = chunk(b"PLTE", noise(16, 1).tobytes())
KINDS = {
    "grey of 1 bit": grey(1),
    "grey of 4 bits": grey(4),
    "grey of 8 bits": grey(8),
    "grey of 16 bits": grey(16),
    "colours of 16 bits": png(8, 16, depth=16, kind=RGB, rows=noise(16, 16).tobytes()),
    "colours with transparency": png(12, 16, depth=8, kind=RGBA, rows=noise(16, 16).tobytes()),
    "transparency of 16 bits": png(6, 16, depth=16, kind=RGBA, rows=noise(16, 16).tobytes()),
    "one transparent colour": with_chunks(STILL, before=[chunk(b"tRNS", struct.pack(">HHH", *noise(24, 16)[0, 0].tolist()))]),
    "transparent grey": with_chunks(grey(8), before=[chunk(b"tRNS", b"\0\x80")]),
    "a palette": png(24, 16, depth=4, kind=PALETTE, rows=noise(12, 16)[..., 0].tobytes(), extra=COLOURS),
    "a transparent palette": png(
        24, 16, depth=4, kind=PALETTE, rows=noise(12, 16)[..., 0].tobytes(), extra=COLOURS + chunk(b"tRNS", bytes(range(9)))
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_of_every_kind_are_those_of_opencv(kind: str) -> None:
    np.testing.assert_array_equal(decode_png(KINDS[kind]), unturned(KINDS[kind]))


def test_image_data_in_several_chunks_is_one_image() -> None:
    start, header, data, end = PNG_START, *chunks_of(STILL)
    parts = [chunk(b"IDAT", data[8:-4][at : at + 100]) for at in range(0, len(data) - 12, 100)]
    assert len(parts) > 5
    np.testing.assert_array_equal(decode_png(start + header + b"".join(parts) + end), noise(*SIZE))
    divided = start + header + b"".join([*parts[:2], chunk(b"tEXt", b"a\0b"), *parts[2:]]) + end
    with pytest.raises(ImageError, match="between the IDAT chunks"):
        decode_png(divided)
    lost = start + header + b"".join([*parts[:2], *parts[3:]]) + end
    with pytest.raises(ImageError, match="cannot decode"):
        decode_png(lost)


def test_a_damaged_comment_costs_no_image_and_damaged_pixels_do() -> None:
    comment = chunk(b"tEXt", b"Comment\0x")
    data = with_chunks(STILL, before=[comment[:-1] + b"?"])
    np.testing.assert_array_equal(decode_png(data), noise(*SIZE))
    for name in (b"IHDR", b"IDAT", b"IEND"):
        damaged = bytearray(STILL)
        damaged[STILL.index(name) + 4] ^= 1
        with pytest.raises(ImageError):
            decode_png(bytes(damaged))


@pytest.mark.parametrize("name", [b"CgBI", b"JHDR", b"\0\0\0\0", b"1234"])
def test_unknown_chunks_without_which_no_image_can_be_shown_are_refused(name: bytes) -> None:
    with pytest.raises(ImageError, match="PNG chunk b'"):
        decode_png(
            with_chunks(
                STILL, before=[with_checksum(chunk(name, b"abc")) if name != b"1234" else chunk(name, b"a")[:-1] + b"x"]
            )
        )


def test_chunks_are_walked_as_the_specification_says() -> None:
    assert [found.name for found in png_chunks(STILL + b"rest")] == [b"IHDR", b"IDAT", b"IEND"]
    assert next((found.start, found.end) for found in png_chunks(STILL)) == (8, 33)
    with pytest.raises(ImageError, match="truncated"):
        list(png_chunks(STILL[:-1]))
    assert (probe_png(STILL).width, probe_png(STILL).height) == SIZE
