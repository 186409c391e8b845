"""Decoding images: damaged, oversized and misplaced ones are refused; all others become RGB in one defined way."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from stages.data.images import (
    DECODER_VERSION,
    ImageError,
    ImageHeader,
    decode_image,
    probe_header,
    size_fault,
)
from storage_schemas.paths.local import LocalPath
from tests.support.image_samples import (
    GREY,
    PALETTE,
    RGB,
    RGBA,
    by_opencv,
    chunk,
    jpeg,
    noise,
    png,
    png_noise,
)


def jpeg_saying(width: int, height: int) -> bytes:
    """A small JPEG whose header states another size (baseline frame: FF C0, length, 8 bits, height, width)."""
    data = bytearray(jpeg(16, 16))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


# --- pixels


def test_a_png_decodes_to_its_pixels_in_rgb_order() -> None:
    np.testing.assert_array_equal(decode_image(png_noise(), expect_wh=(24, 16)), noise(24, 16))


def test_a_jpeg_decodes_close_to_its_pixels_in_rgb_order() -> None:
    red = np.full((16, 16, 3), (200, 40, 10), np.uint8)
    decoded = decode_image(simplejpeg.encode_jpeg(red, quality=95), expect_wh=(16, 16))
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - red).max() <= 3


def test_grey_is_repeated_in_jpeg_and_png() -> None:
    grey = np.full((8, 16, 1), 77, np.uint8)
    data = simplejpeg.encode_jpeg(grey, colorspace="GRAY", colorsubsampling="Gray", quality=100)
    assert (decode_image(data, expect_wh=(16, 8)) == 77).all()
    data = png(16, 8, depth=8, kind=GREY, rows=grey.tobytes())
    assert (decode_image(data, expect_wh=(16, 8)) == 77).all()


def test_cmyk_is_each_ink_times_black_as_in_opencv() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:] = (200, 100, 50, 128)
    data = simplejpeg.encode_jpeg(inks, colorspace="CMYK", quality=100)
    decoded = decode_image(data, expect_wh=(16, 16)).astype(int)
    # 200 * 128 / 255 = 100.4, 100 * 128 / 255 = 50.2, 50 * 128 / 255 = 25.1
    assert np.abs(decoded - (100, 50, 25)).max() <= 2
    assert np.abs(decoded - by_opencv(data)[..., ::-1]).max() <= 2


def test_the_upper_8_of_16_bits_are_kept() -> None:
    rows = np.full((4, 6, 3), (0x12FF, 0x8000, 0xFE80), ">u2").tobytes()
    assert (decode_image(png(6, 4, depth=16, kind=RGB, rows=rows), expect_wh=(6, 4)) == (0x12, 0x80, 0xFE)).all()


def test_transparency_is_dropped_without_blending() -> None:
    rows = np.full((4, 6, 4), (10, 20, 30, 0), np.uint8).tobytes()
    assert (decode_image(png(6, 4, depth=8, kind=RGBA, rows=rows), expect_wh=(6, 4)) == (10, 20, 30)).all()


def test_a_palette_is_looked_up() -> None:
    colours = chunk(b"PLTE", bytes([1, 2, 3, 250, 120, 60]))
    data = png(6, 4, depth=8, kind=PALETTE, rows=bytes([1] * 24), extra=colours)
    assert (decode_image(data, expect_wh=(6, 4)) == (250, 120, 60)).all()


def test_exif_rotation_is_ignored() -> None:
    # A TIFF block with the one tag 0x0112 (orientation) = 6: turn by a quarter to show it.
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    content = b"Exif\0\0" + tiff
    plain = jpeg(96, 64)
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + plain[2:]
    assert by_opencv(turned).shape == (96, 64, 3)
    np.testing.assert_array_equal(decode_image(turned, expect_wh=(96, 64)), decode_image(plain, expect_wh=(96, 64)))


def test_headers_are_read_without_decoding() -> None:
    assert probe_header(jpeg(96, 64)) == ImageHeader("jpeg", 96, 64)
    assert probe_header(png_noise(24, 16)) == ImageHeader("png", 24, 16)
    assert probe_header(jpeg_saying(65000, 64999)) == ImageHeader("jpeg", 65000, 64999)


def test_the_decoders_version_names_both_libraries() -> None:
    assert f"simplejpeg {simplejpeg.__version__}, opencv {cv2.__version__}" == DECODER_VERSION


# --- damage


@pytest.mark.parametrize("missing", [1, 2, 100, 1000])
def test_a_truncated_jpeg_is_refused(missing: int) -> None:
    with pytest.raises(ImageError, match=r"^decode:"):
        decode_image(jpeg()[:-missing], expect_wh=(96, 64))


def test_a_damaged_jpeg_raises_even_if_opencv_decodes_it() -> None:
    data = bytearray(jpeg())
    middle = len(data) // 2
    data[middle : middle + 512] = np.random.default_rng(1).integers(0, 256, 512, dtype=np.uint8).tobytes()
    assert by_opencv(bytes(data)).shape == (64, 96, 3)
    with pytest.raises(ImageError, match=r"^decode:"):
        decode_image(bytes(data), expect_wh=(96, 64))


def test_every_changed_byte_of_a_png_raises() -> None:
    whole = png_noise()
    # Every byte is part of the signature, of a chunk or of its checksum.
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        with pytest.raises(ImageError):
            decode_image(bytes(damaged), expect_wh=(24, 16))


def test_every_truncated_png_raises() -> None:
    whole = png_noise()
    for length in range(0, len(whole), 7):
        with pytest.raises(ImageError):
            decode_image(whole[:length], expect_wh=(24, 16))


def test_a_png_with_fewer_pixels_than_it_says_is_refused() -> None:
    short = png(24, 8, depth=8, kind=RGB, rows=noise(24, 8).tobytes())
    taller = short.replace(short[8:33], chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, RGB, 0, 0, 0)))
    assert probe_header(taller) == ImageHeader("png", 24, 16)
    with pytest.raises(ImageError, match=r"^decode:"):
        decode_image(taller, expect_wh=(24, 16))


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(40), b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_other_formats_raise(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(data, expect_wh=(8, 8))


@pytest.mark.parametrize("data", [jpeg(96, 64), png(96, 64, depth=8, kind=RGB, rows=noise(96, 64).tobytes())])
def test_another_size_than_the_annotated_one_raises_with_both_sizes(data: bytes) -> None:
    with pytest.raises(ImageError, match="96 x 64, but the annotation says 64 x 96"):
        decode_image(data, expect_wh=(64, 96))


@pytest.mark.parametrize(
    "size", [(0, 5), (5, 0), (-1, 5), (5.0, 5), ("5", 5), (True, 5), (None, 5), (40_000, 5), (20_000, 20_000)]
)
def test_impossible_sizes_are_faults(size: tuple[object, object]) -> None:
    assert size_fault(*size)
    assert size_fault(640, 480) is None


_BOMBS = """
import sys, time
from pathlib import Path
from stages.data.images import ImageError, check_image
from storage_schemas.paths.local import LocalPath

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

before, start = peak_mb(), time.perf_counter()
for name, width, height in (("bomb.png", 20000, 20000), ("bomb.jpg", 65000, 65000)):
    for expect_wh in ((width, height), (640, 480)):
        try:
            check_image(LocalPath(sys.argv[1]), name, expect_wh)
            sys.exit(f"{name} was taken")
        except ImageError as error:
            assert str(error).startswith("size:"), error
print(time.perf_counter() - start, peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_images_that_would_fill_the_memory_are_refused_by_their_header(tmp_path: LocalPath) -> None:
    rows = bytes(2500 * 20000)
    (tmp_path / "bomb.png").write_bytes(png(20000, 20000, depth=1, kind=GREY, rows=rows))
    (tmp_path / "bomb.jpg").write_bytes(jpeg_saying(65000, 65000))
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    run = subprocess.run(
        [sys.executable, "-c", _BOMBS, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert run.returncode == 0, run.stderr
    seconds, grown_mb = map(float, run.stdout.split())
    assert seconds < 1
    assert grown_mb < 100
