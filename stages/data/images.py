"""Decoding images from untrusted files: the header is checked first, and a damaged image raises.

OpenCV decodes many damaged JPEGs and only prints a warning, and an image whose header states 65000 x 65000 pixels would use
12 GB of memory. So the size in the header is compared with the annotation before any pixel is decoded, libjpeg-turbo decodes
JPEG with its warnings as errors, and the checksums of a PNG are verified before OpenCV decodes it.

The result is RGB uint8 for every kind of image. Grey is repeated, transparency is dropped without blending, the upper 8 of 16
bits are kept, CMYK is multiplied as in OpenCV, and EXIF rotation is ignored as in COCO's annotations.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath

__all__ = [
    "DECODER_VERSION",
    "MAX_PIXELS",
    "ImageError",
    "ImageHeader",
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

MAX_PIXELS = 100_000_000
"""The largest image that is decoded; a larger one would use more than 300 MB."""

_MAX_SIDE = 32_766
"""OpenCV's warp counts the pixels of a row in 16 bits."""

_MAX_FILE_BYTES = 1 << 29
_MAX_NAME_BYTES = 1024
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

U8 = npt.NDArray[np.uint8]


class ImageError(ValueError):
    """An image that cannot be used; the text says why, for the quarantine."""


@dataclass(frozen=True)
class ImageHeader:
    """Format and size in pixels, from the header of a file."""

    format: Literal["jpeg", "png"]
    width: int
    height: int


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


def size_fault(width: object, height: object) -> str | None:
    """Why an image cannot have this annotated size, or None."""
    # isinstance would accept True as an int.
    if type(width) is not int or type(height) is not int or width <= 0 or height <= 0:
        return "width and height are not whole numbers above 0"
    if max(width, height) > _MAX_SIDE:
        return f"{width} x {height} has a side of more than {_MAX_SIDE} pixels"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels"
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
    if data.startswith(_PNG_SIGNATURE):
        return _probe_png(data)
    if data.startswith(b"\xff\xd8"):
        width, height, _ = _probe_jpeg(data)
        return ImageHeader("jpeg", width, height)
    raise ImageError("format: empty" if not data else "format: neither JPEG nor PNG")


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
        raise ImageError(f"size: {size_wh[0]} x {size_wh[1]}, but the annotation says {expect_wh[0]} x {expect_wh[1]}")
    image_hw3 = _decode_jpeg(data) if header.format == "jpeg" else _decode_png(data)
    if image_hw3.shape != (header.height, header.width, 3):
        raise ImageError(f"decode: the decoded array has the shape {image_hw3.shape}")
    return image_hw3


def check_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> FileFacts:
    """Read and decode the image; returns the hash and length of its file.

    Raises:
        ImageError: it cannot be used.
    """
    return read_image(root, file_name, expect_wh)[0]


def read_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> tuple[FileFacts, U8]:
    """Like ``check_image``, but also returns the pixels [h, w, 3]."""
    data = read_image_file(root, file_name, refresh=True)
    image_hw3 = decode_image(data, expect_wh=expect_wh)
    return FileFacts(len(data), hashlib.sha256(data).hexdigest()), image_hw3


def _probe_jpeg(data: bytes) -> tuple[int, int, str]:
    """Width, height and colour space, read by the library that also decodes."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError as error:
        raise ImageError(f"header: {error}") from error
    return int(width), int(height), str(colorspace)


def _decode_jpeg(data: bytes) -> U8:
    is_cmyk = _probe_jpeg(data)[2] in ("CMYK", "YCCK")
    try:
        decoded: U8 = simplejpeg.decode_jpeg(data, colorspace="CMYK" if is_cmyk else "RGB", strict=True)
    except ValueError as error:
        raise ImageError(f"decode: {error}") from error
    if not is_cmyk:
        return decoded
    # CMYK is stored inverted. OpenCV's rule: a colour is the complement of its ink times the complement of black.
    ink, black = decoded[..., :3].astype(np.uint16), decoded[..., 3:].astype(np.uint16)
    return (ink * black // 255).astype(np.uint8)


def _probe_png(data: bytes) -> ImageHeader:
    # The first chunk is IHDR: length 13, name, width, height, 5 bytes of kinds, checksum (PNG specification, 11.2.2).
    header = data[8:33]
    if len(header) < 25 or header[:8] != b"\x00\x00\x00\x0dIHDR":
        raise ImageError("header: a PNG without IHDR")
    if zlib.crc32(header[4:21]) != int.from_bytes(header[21:25]):
        raise ImageError("header: IHDR's checksum is wrong")
    width, height = struct.unpack(">II", header[8:16])
    return ImageHeader("png", width, height)


def _decode_png(data: bytes) -> U8:
    _verify_png_chunks(data)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _PNG_READ)
    except cv2.error as error:
        raise ImageError(f"decode: {error.err}") from error
    if decoded is None:
        raise ImageError("decode: OpenCV cannot decode this PNG")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _verify_png_chunks(data: bytes) -> None:
    """Verify all chunks up to IEND and their checksums; OpenCV's behaviour for wrong ones differs between versions."""
    view, position, name = memoryview(data), len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = int.from_bytes(view[position : position + 4]), bytes(view[position + 4 : position + 8])
        end = position + 12 + length
        if end > len(data):
            raise ImageError("decode: a truncated PNG")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise ImageError(f"decode: the checksum of PNG chunk {name!r} is wrong")
        position = end
