"""Decoding pictures that nobody vouches for: the header first, then all of it or nothing.

OpenCV takes many a damaged JPEG for good and only writes to stderr, and a header of 65000 x 65000 pixels
costs 12 GB before it is found out. So the size is read from the header and compared before a pixel is decoded, JPEG is
decoded by libjpeg-turbo with its warnings as errors, and a PNG's checksums are verified before OpenCV sees it.

What comes out is defined for every kind: RGB uint8. Grey is repeated, transparency is dropped without blending, of 16
bits the upper 8 are kept, CMYK is multiplied as OpenCV does it, EXIF rotation is ignored as in COCO's annotations.
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

from storage_schemas.formats.instances import ImageFacts
from storage_schemas.paths.path import StorePath

__all__ = [
    "DECODER_VERSION",
    "MAX_PIXELS",
    "ImageError",
    "ImageFacts",
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
"""Which libraries make pixels of files: part of a key, since decoders differ by pixels."""

MAX_PIXELS = 100_000_000
"""A larger picture is refused by its header: decoded it would take more than 300 MB."""

_MAX_SIDE = 32_766
"""OpenCV's warp counts the pixels of a row in 16 bits."""

_MAX_FILE_BYTES = 1 << 29
_MAX_NAME_BYTES = 1024
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_READ = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

U8 = npt.NDArray[np.uint8]


class ImageError(ValueError):
    """A picture that cannot be used; its text is the reason, for the quarantine."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says that it is, before it is decoded; sizes in pixels."""

    format: Literal["jpeg", "png"]
    width: int
    height: int


def file_name_fault(name: object) -> str | None:
    """Why ``name`` cannot be a picture's path below the image folder, or None; nothing is opened."""
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
    """Why a picture cannot have this annotated size, or None."""
    # bool is an int to isinstance, and a float would come back as another size.
    if type(width) is not int or type(height) is not int or width <= 0 or height <= 0:
        return "width and height are not whole numbers above 0"
    if max(width, height) > _MAX_SIDE:
        return f"{width} x {height} has a side of more than {_MAX_SIDE} pixels"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels"
    return None


def read_image_file(root: StorePath, file_name: str, *, anew: bool = False) -> bytes:
    """The bytes of the picture ``file_name`` below ``root``; in a bucket those that this node has, unless ``anew``.

    Raises:
        ImageError: the name or a symbolic link leads out of ``root``, or there is no regular file that can be read.
    """
    if fault := file_name_fault(file_name):
        raise ImageError(f"file_name: {fault}")
    try:
        (root / file_name).fetch(again=anew)
        folder, path = os.path.realpath(root.mirror()), os.path.realpath(root.mirror() / file_name)
        if os.path.commonpath([folder, path]) != folder:
            raise ImageError("file: a symbolic link leads out of the image folder")
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):
            # Looked at before it is opened: reading a named pipe would wait for ever.
            raise ImageError("file: not a regular file")
        if facts.st_size > _MAX_FILE_BYTES:
            raise ImageError(f"file: {facts.st_size} bytes, more than {_MAX_FILE_BYTES}")
        return Path(path).read_bytes()
    except OSError as error:
        # A picture is broken, or the storage is, or this node's disk: pictures that are whole must not be set aside for that.
        if not root.blames_file(error):
            raise
        raise ImageError(f"file: {error.strerror or error}") from error


def probe_header(data: bytes) -> ImageHeader:
    """Format and size of a JPEG or PNG file by its header; no pixel is decoded.

    Raises:
        ImageError: neither of the two, or its header is broken.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _probe_png(data)
    if data.startswith(b"\xff\xd8"):
        width, height, _ = _probe_jpeg(data)
        return ImageHeader("jpeg", width, height)
    raise ImageError("format: empty" if not data else "format: neither JPEG nor PNG")


def decode_image(data: bytes, *, expect_wh: tuple[int, int]) -> U8:
    """The picture as RGB uint8 [h, w, 3], which must be ``expect_wh`` (w, h) pixels by its header.

    Raises:
        ImageError: any doubt about the file's kind, size or pixels. A JPEG holds no checksum, so that a few changed
            bits that still read as a picture cannot be told; once a data set is prepared, its hashes tell them.
    """
    header = probe_header(data)
    size_wh = (header.width, header.height)
    if fault := size_fault(*size_wh):
        raise ImageError(f"size: {fault}")
    if size_wh != expect_wh:
        raise ImageError(f"size: {size_wh[0]} x {size_wh[1]} where the annotation says {expect_wh[0]} x {expect_wh[1]}")
    image_hw3 = _decode_jpeg(data) if header.format == "jpeg" else _decode_png(data)
    if image_hw3.shape != (header.height, header.width, 3):
        raise ImageError(f"decode: came out as {image_hw3.shape}")
    return image_hw3


def check_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> ImageFacts:
    """Read and decode the picture whole, and say what its file is.

    Raises:
        ImageError: it cannot be used.
    """
    return read_image(root, file_name, expect_wh)[0]


def read_image(root: StorePath, file_name: str, expect_wh: tuple[int, int]) -> tuple[ImageFacts, U8]:
    """As ``check_image``, with the pixels [h, w, 3]."""
    data = read_image_file(root, file_name, anew=True)
    image_hw3 = decode_image(data, expect_wh=expect_wh)
    return ImageFacts(hashlib.sha256(data).hexdigest(), len(data)), image_hw3


def _probe_jpeg(data: bytes) -> tuple[int, int, str]:
    """Width, height and colour space by the same library that decodes, so that both read the same header."""
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
    # Stored inverted, as by every program that writes them; OpenCV's rule: a colour is its ink's complement times black's.
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
    """Every chunk up to IEND is whole and its checksum right: what OpenCV does about a wrong one changes by version."""
    view, position, name = memoryview(data), len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = int.from_bytes(view[position : position + 4]), bytes(view[position + 4 : position + 8])
        end = position + 12 + length
        if end > len(data):
            raise ImageError("decode: a truncated PNG")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            raise ImageError(f"decode: the checksum of PNG chunk {name!r} is wrong")
        position = end
