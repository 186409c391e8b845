"""The EXIF orientation of image files: read from every valid block, and 1 from a broken or hostile one."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from stages.data.exif import keeps_size, orientation_of, turns_size
from stages.data.images import ImageError, decode_image
from tests.support.image_samples import app, by_opencv, chunk, exif, jpeg, png_noise, unturned, with_chunks, with_segment


def jpeg_with(block: bytes) -> bytes:
    return with_segment(jpeg(), app(1, b"Exif\0\0" + block))


def png_with(block: bytes) -> bytes:
    return with_chunks(png_noise(), before=[chunk(b"eXIf", block)])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_read_and_turns_sizes_as_opencv_turns_images(orientation: int, order: str) -> None:
    for data in (jpeg_with(exif(orientation, order=order)), png_with(exif(orientation, order=order))):
        assert orientation_of(data) == orientation
        stored = unturned(data).shape[:2]
        assert turns_size(orientation) == (by_opencv(data).shape[:2] != stored)


def test_orientations_that_the_size_does_not_show() -> None:
    assert [number for number in range(1, 9) if keeps_size(number, (96, 64))] == [2, 3, 4]
    assert [number for number in range(1, 9) if keeps_size(number, (64, 64))] == [2, 3, 4, 5, 6, 7, 8]


def test_the_tag_is_found_behind_other_segments_and_chunks() -> None:
    assert orientation_of(with_segment(jpeg_with(exif(3)), app(0, b"JFIF\0") + app(1, b"http://ns.adobe.com/xap/1.0/\0x"))) == 3
    assert orientation_of(with_chunks(png_noise(), before=[chunk(b"gAMA", bytes(4))], after=[chunk(b"eXIf", exif(8))])) == 8


def with_offset(offset: int, *, entries: int | None = None) -> bytes:
    block = exif(6)
    changed = block[:4] + struct.pack(">I", offset) + block[8:]
    return changed if entries is None else changed[:8] + struct.pack(">H", entries) + changed[10:]


HOSTILE = {
    "empty": b"",
    "only the byte order": b"MM\0*",
    "another byte order": b"XX\0*" + exif(6)[4:],
    "an offset behind the end": with_offset(2**32 - 1),
    "an offset at the last byte": with_offset(len(exif(6)) - 1),
    "an offset into the header": with_offset(0),
    "no entries": with_offset(8, entries=0),
    "an orientation of 0": exif(0),
    "an orientation of 9": exif(9),
    "an orientation of 65535": exif(65_535),
    "a text as orientation": exif(6, kind=2),
    "two orientations": exif(6, number=2),
    "four thousand million orientations": exif(6, number=2**32 - 1),
    "cut inside of the entry": exif(6)[:30],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_broken_block_has_no_orientation(kind: str) -> None:
    assert orientation_of(jpeg_with(HOSTILE[kind])) == 1
    assert orientation_of(png_with(HOSTILE[kind])) == 1


def test_more_entries_than_the_block_holds_do_no_harm() -> None:
    assert orientation_of(jpeg_with(with_offset(8, entries=65_535))) == 6


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8", jpeg()[:50], jpeg_with(exif(6))[:20], png_noise()[:40], b"GIF89a"])
def test_other_files_and_truncated_ones_have_no_orientation(data: bytes) -> None:
    assert orientation_of(data) == 1


def test_a_tag_in_a_damaged_chunk_or_behind_the_image_is_not_read() -> None:
    damaged = chunk(b"eXIf", exif(6))
    assert orientation_of(with_chunks(png_noise(), before=[damaged[:-1] + bytes((damaged[-1] ^ 1,))])) == 1
    assert orientation_of(jpeg() + app(1, b"Exif\0\0" + exif(6))) == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_reason_says_that_the_annotation_has_the_size_after_turning(orientation: int) -> None:
    for data, stored in ((jpeg_with(exif(orientation)), (96, 64)), (png_with(exif(orientation)), (24, 16))):
        with pytest.raises(ImageError) as caught:
            decode_image(data, expect_wh=stored[::-1])
        text = str(caught.value)
        assert text.startswith(f"size: {stored[0]} x {stored[1]}, but the annotation says {stored[1]} x {stored[0]}; ")
        assert f"EXIF orientation {orientation}" in text
        assert "size after turning" in text
        assert "store the image turned and without the tag" in text


def test_other_sizes_are_not_explained_by_the_tag() -> None:
    for data, expected in ((jpeg_with(exif(3)), (64, 96)), (jpeg_with(exif(6)), (64, 95)), (jpeg(), (64, 96))):
        with pytest.raises(ImageError) as caught:
            decode_image(data, expect_wh=expected)
        assert "EXIF" not in str(caught.value)


def test_an_image_stored_turned_and_without_the_tag_fits_the_annotation() -> None:
    """The proposed step, done with OpenCV, which turns as the tag says and writes no tag."""
    done, mended = cv2.imencode(".jpg", by_opencv(jpeg_with(exif(6))).astype(np.uint8))
    assert done
    assert decode_image(mended.tobytes(), expect_wh=(64, 96)).shape == (96, 64, 3)
    assert orientation_of(mended.tobytes()) == 1
