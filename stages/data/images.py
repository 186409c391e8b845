"""Reading and decoding images from untrusted files: the header is checked first, and a damaged image raises.

OpenCV decodes many damaged JPEGs and only prints a warning, and an image whose header states 65000 x 65000 pixels would use
12 GB of memory. So the size in the header is compared with the annotation before any pixel is decoded; ``jpeg.py`` and
``png.py`` then refuse files that lose pixels.

The result is RGB uint8 for every kind of image. Grey is repeated, transparency is dropped without blending, the upper 8 of 16
bits are kept, CMYK is multiplied as in OpenCV, and EXIF rotation is ignored as in COCO's annotations.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from stages.data.exif import orientation_of, turns_size
from stages.data.image_header import MAX_PIXELS, ImageError, ImageHeader, size_fault
from stages.data.jpeg import JPEG_START, decode_jpeg, probe_jpeg
from stages.data.png import PNG_START, decode_png, probe_png
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath

__all__ = [
    "DECODER_VERSION",
    "MAX_PIXELS",
    "ImageError",
    "ImageHeader",
    "ReadImage",
    "check_image",
    "decode_image",
    "file_name_fault",
    "probe_header",
    "read_image",
    "read_image_file",
    "size_fault",
]

DECODER_VERSION = f"simplejpeg {simplejpeg.__version__}, opencv {cv2.__version__}"
"""The decoding libraries; part of keys, since decoders return slightly different pixels."""

_MAX_FILE_BYTES = 1 << 29
_MAX_NAME_BYTES = 1024

U8 = npt.NDArray[np.uint8]


class ReadImage(NamedTuple):
    """What a file is: the facts of its bytes, the pixels [h, w, 3], and its EXIF orientation."""

    facts: FileFacts
    image_hw3: U8
    orientation: int


def file_name_fault(name: object) -> str | None:
    """Why ``name`` cannot be the path of an image below the image folder, or None; opens no file."""
    if not isinstance(name, str) or not name:
        return "not a name"
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        return "holds NUL, a control character or half of a surrogate pair"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"{len(name.encode())} bytes long, more than {_MAX_NAME_BYTES}"
    if name.startswith("/"):
        return "an absolute path"
    if ".." in name.split("/"):
        return "leads out of the image folder by '..'"
    return None


def read_image_file(root: StorePath, file_name: str, *, refresh: bool = False) -> bytes:
    """The bytes of the image ``file_name`` below ``root``.

    From a bucket the image is downloaded if this node does not have it yet, or with ``refresh``.

    Raises:
        ImageError: the name or a symbolic link leads out of ``root``, or the path is not a readable regular file.
    """
    if fault := file_name_fault(file_name):
        raise ImageError(f"file_name: {fault}")
    try:
        (root / file_name).fetch(again=refresh)
        folder, path = os.path.realpath(root.mirror()), os.path.realpath(root.mirror() / file_name)
        if os.path.commonpath([folder, path]) != folder:
            raise ImageError("file: a symbolic link leads out of the image folder")
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):
            # Checked before opening: reading a named pipe would block forever.
            raise ImageError("file: not a regular file")
        if facts.st_size > _MAX_FILE_BYTES:
            raise ImageError(f"file: {facts.st_size} bytes, more than {_MAX_FILE_BYTES}")
        return Path(path).read_bytes()
    except OSError as error:
        # If the storage or this node's disk fails, the image may be intact and must not be quarantined.
        if not root.blames_file(error):
            raise
        raise ImageError(f"file: {error.strerror or error}") from error


def probe_header(data: bytes) -> ImageHeader:
    """Format and size of a JPEG or PNG file from its header, without decoding.

    Raises:
        ImageError: the file is neither JPEG nor PNG, or its header is broken.
    """
    if data.startswith(PNG_START):
        return probe_png(data)
    if data.startswith(JPEG_START):
        return probe_jpeg(data)
    raise ImageError(f"format: neither JPEG nor PNG; it begins with {data[:12]!r}" if data else "format: empty")


def decode_image(data: bytes, *, expect_wh: tuple[int, int]) -> U8:
    """The image as RGB uint8 [h, w, 3]; its header must state ``expect_wh`` (w, h) pixels.

    Raises:
        ImageError: the format, the size or the pixels are wrong. A JPEG has no checksum, so a few changed bits may stay
            unnoticed here; after stage prepare, the hashes in the instance table detect them.
    """
    header = probe_header(data)
    size_wh = (header.width, header.height)
    if fault := size_fault(*size_wh):
        raise ImageError(f"size: {fault}")
    if size_wh != expect_wh:
        raise ImageError(f"size: {_other_size(data, size_wh, expect_wh)}")
    image_hw3 = decode_jpeg(data) if header.format == "jpeg" else decode_png(data)
    if image_hw3.shape != (header.height, header.width, 3):
        raise ImageError(f"decode: the decoded array has the shape {image_hw3.shape}")
    return image_hw3


def check_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> FileFacts:
    """Read and decode the image; returns the hash and length of its file.

    Raises:
        ImageError: it cannot be used.
    """
    return read_image(root, file_name, expect_wh).facts


def read_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> ReadImage:
    """Like ``check_image``, but also returns the pixels and the EXIF orientation."""
    data = read_image_file(root, file_name, refresh=True)
    image_hw3 = decode_image(data, expect_wh=expect_wh)
    return ReadImage(FileFacts(len(data), hashlib.sha256(data).hexdigest()), image_hw3, orientation_of(data))


def _other_size(data: bytes, size_wh: tuple[int, int], expect_wh: tuple[int, int]) -> str:
    """What is wrong if the file and the annotation state different sizes."""
    text = f"{size_wh[0]} x {size_wh[1]}, but the annotation says {expect_wh[0]} x {expect_wh[1]}"
    orientation = orientation_of(data)
    if size_wh != expect_wh[::-1] or not turns_size(orientation):
        return text
    return (
        f"{text}; the file has EXIF orientation {orientation}, and the annotation has the size after turning. As in COCO, this "
        "tag is ignored: store the image turned and without the tag"
    )
