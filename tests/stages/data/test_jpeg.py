"""JPEG files as phones and webcams write them: flaws that cost no pixel are forgiven, lost pixels never."""

from __future__ import annotations

import re
import struct
import time

import cv2
import numpy as np
import pytest
import simplejpeg

from stages.data.images import ImageError, decode_image
from stages.data.jpeg import decode_jpeg, jpeg_segments, probe_jpeg
from tests.support.image_samples import app, jpeg, noise, unturned, with_segment


def encoded(*options: int) -> bytes:
    done, data = cv2.imencode(".jpg", noise(96, 64), options)
    assert done
    return bytes(data.tobytes())


def sequential_scan(data: bytes) -> bytes:
    """As many Samsung phones write it: the first and last coefficient of the scan are 0 and 0 in place of 0 and 63."""
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
    assert data[end - 3 : end] == b"\x00\x3f\x00"
    return data[: end - 3] + bytes(3) + data[end:]


def in_front_of(marker: bytes, inserted: bytes, data: bytes) -> bytes:
    at = data.rindex(marker)
    return data[:at] + inserted + data[at:]


WHOLE = jpeg()
RESTARTS = encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
PROGRESSIVE = encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
# Without JFIF the Adobe segment says how colours are stored; 7 does not exist.
ADOBE = with_segment(WHOLE.replace(b"JFIF", b"JXIF"), app(14, b"Adobe\0\x64\0\0\0\0\x07"))
HARMLESS = {
    "the parameters of a sequential scan": sequential_scan(WHOLE),
    "the parameters of a scan with restarts": sequential_scan(RESTARTS),
    "an unknown revision of JFIF": WHOLE.replace(b"JFIF\0\1", b"JFIF\0\5"),
    "an unknown revision of JFIF, progressive": PROGRESSIVE.replace(b"JFIF\0\1", b"JFIF\0\5"),
    "an unknown way to store colours": ADOBE,
    "a broken colour profile": with_segment(WHOLE, app(2, b"ICC_PROFILE\0\x07\x02" + bytes(50))),
    "bytes between two segments": in_front_of(b"\xff\xc0", b"abc", WHOLE),
    "escaped bytes between two segments": in_front_of(b"\xff\xc0", b"a\xff\0c", WHOLE),
    "zeros before the end": in_front_of(b"\xff\xd9", bytes(9), WHOLE),
    "zeros before a restart": in_front_of(b"\xff\xd2", bytes(50), RESTARTS),
    "a restart before the end": in_front_of(b"\xff\xd9", b"\xff\xd3", WHOLE),
    "data behind the end": WHOLE + b"\0abc\xff\xda" * 500,
    "several flaws": in_front_of(b"\xff\xd9", bytes(9), sequential_scan(WHOLE)).replace(b"JFIF\0\1", b"JFIF\0\5"),
}


@pytest.mark.parametrize("flaw", HARMLESS)
def test_flaws_that_cost_no_pixel_are_forgiven(flaw: str) -> None:
    data = HARMLESS[flaw]
    assert data not in (WHOLE, RESTARTS, PROGRESSIVE)
    decoded = decode_image(data, expect_wh=(96, 64))
    np.testing.assert_array_equal(decoded, unturned(data))
    intact = PROGRESSIVE if "progressive" in flaw else RESTARTS if "restarts" in flaw or "a restart" in flaw[-9:] else WHOLE
    np.testing.assert_array_equal(decoded, unturned(intact))


def without_half(data: bytes) -> bytes:
    """Half of the compressed data are lost, and the file ends as it should."""
    scan = data.index(b"\xff\xda")
    return data[: (scan + len(data)) // 2] + b"\xff\xd9"


DAMAGED = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "Premature end of JPEG file"),
    "truncated behind a harmless flaw": (sequential_scan(WHOLE)[: len(WHOLE) // 2], "Premature end of JPEG file"),
    "half of the data": (without_half(WHOLE), "premature end of data segment"),
    "half of the data behind a harmless flaw": (without_half(sequential_scan(WHOLE)), "premature end of data segment"),
    "a lost restart": (RESTARTS.replace(b"\xff\xd2", b"", 1), "0xd3|Corrupt"),
    "a lost restart behind a harmless flaw": (sequential_scan(RESTARTS).replace(b"\xff\xd2", b"", 1), "0xd3|Corrupt"),
    "other bytes before the end": (in_front_of(b"\xff\xd9", b"abcdefgh", WHOLE), "extraneous bytes before marker 0xd9"),
    "an unfinished header": (with_segment(WHOLE, b"\xff\xfe\xff\xff"), "incomplete"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_lost_pixels_are_never_forgiven(damage: str) -> None:
    data, reason = DAMAGED[damage]
    with pytest.raises(ImageError, match=reason):
        decode_image(data, expect_wh=(96, 64))


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_in_the_compressed_data_are_refused_also_behind_a_harmless_flaw(seed: int) -> None:
    data = bytearray(sequential_scan(WHOLE))
    generator = np.random.default_rng(seed)
    start = int(generator.integers(data.index(b"\xff\xda") + 20, len(data) - 400))
    data[start : start + 300] = generator.integers(0, 256, 300, dtype=np.uint8).tobytes()
    with pytest.raises(ImageError):
        decode_image(bytes(data), expect_wh=(96, 64))


def test_adobes_four_colours_with_an_unknown_transform_are_as_in_opencv() -> None:
    inks = np.dstack([noise(64, 48), noise(64, 48)[..., :1]]).copy()
    data = simplejpeg.encode_jpeg(inks, colorspace="CMYK", quality=95)
    unknown = re.sub(rb"(Adobe.{6})\x02", lambda found: found[1] + b"\x09", data, flags=re.DOTALL)
    assert unknown != data
    assert np.abs(decode_jpeg(unknown).astype(int) - unturned(unknown)).max() <= 2


def test_the_segments_are_those_of_the_specification() -> None:
    markers = [segment.marker for segment in jpeg_segments(WHOLE + b"\xff\xe0\0\2")]
    assert markers == [0xE0, 0xDB, 0xDB, 0xC0, 0xC4, 0xC4, 0xC4, 0xC4, 0xDA, 0xD9]
    assert next(jpeg_segments(WHOLE)) == (0xE0, 2, 20)
    assert list(jpeg_segments(b"\xff\xd8\xff\xe0\xff\xff")) == []


# Bombs


def sized(data: bytes, width: int, height: int) -> bytes:
    frame = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", data)
    assert frame
    return data[: frame.end()] + struct.pack(">HH", height, width) + data[frame.end() + 4 :]


@pytest.mark.parametrize("data", [sized(WHOLE, 9_000, 9_000), sized(PROGRESSIVE, 9_000, 9_000)])
def test_a_small_file_cannot_hold_a_large_image(data: bytes) -> None:
    header = probe_jpeg(data)
    assert (header.width, header.height) == (9_000, 9_000)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="bytes cannot hold 9000 x 9000 pixels"):
        decode_jpeg(data)
    assert time.perf_counter() - start < 0.1


def test_thousands_of_scans_are_not_decoded() -> None:
    at = PROGRESSIVE.rindex(b"\xff\xda")
    scan = PROGRESSIVE[at:-2]
    start = time.perf_counter()
    for data in (PROGRESSIVE[:at] + scan * 5_000 + b"\xff\xd9", PROGRESSIVE[:at] + b"\xff\xfe\0\2" * 11_000 + scan * 200):
        with pytest.raises(ImageError, match="more than 100 scans"):
            decode_jpeg(data)
    assert time.perf_counter() - start < 1


def test_what_looks_like_scans_behind_the_image_is_no_bomb() -> None:
    np.testing.assert_array_equal(decode_jpeg(WHOLE + b"\xff\xda" * 1_000), decode_jpeg(WHOLE))
