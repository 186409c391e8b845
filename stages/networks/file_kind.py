"""What a file that is given as weights really is: pages, pointers and other formats are named before they are read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from storage_schemas.errors import WeightsError

__all__ = ["Format", "begins_with", "check_archive", "refuse_other_kind"]

Format = Literal["torch", "safetensors", "pt2", "onnx"]

_SHOWN_BYTES = 24
_BEGINNINGS = (
    (b"<!doctype html", "begins like an HTML page, so the page of a file host was saved in place of the file"),
    (b"<html", "begins like an HTML page, so the page of a file host was saved in place of the file"),
    (b"<?xml", "begins like XML, such as the error message of a file host in place of the file"),
    (b"version https://git-lfs", "is a Git LFS pointer, which stands for the file until Git LFS downloads it"),
    (b"/annex/objects/", "is a git-annex pointer, which stands for the file until git-annex downloads it"),
    (b'{"', "begins like JSON, such as the error message of a file host in place of the file"),
    (b"%pdf-", "is a PDF document"),
    (b"\x1f\x8b", "is compressed with gzip, and must be unpacked first"),
    (b"bzh", "is compressed with bzip2, and must be unpacked first"),
    (b"\xfd7zxz\x00", "is compressed with xz, and must be unpacked first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd, and must be unpacked first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive, and must be unpacked first"),
    (b"rar!", "is a RAR archive, and must be unpacked first"),
    (b"\x89hdf", "is an HDF5 file, as Keras writes it"),
    (b"\x93numpy", "is an array of numpy"),
    (b"\x89png", "is an image"),
    (b"\xff\xd8\xff", "is an image"),
)
"""What a file begins with, in lower case, and what it is then; none of these is weights."""
_FORMATS: dict[Format, str] = {
    "torch": "a weights file of PyTorch (.pth)",
    "safetensors": "a safetensors file (.safetensors)",
    "pt2": "a torch.export program (.pt2)",
    "onnx": "an ONNX network (.onnx)",
}
_NAMES: dict[Format, str] = {
    "torch": "a PyTorch weights file",
    "safetensors": "safetensors",
    "pt2": "a torch.export program",
    "onnx": "ONNX",
}
_TORCHSCRIPT = (
    "is a TorchScript archive, which holds code",
    "the state dict of the network (torch.save(network.state_dict(), FILE)), or the network by torch.export.save as .pt2",
)
_ZIP, _TAR, _MAX_HEADER = b"PK\x03\x04", b"ustar", 100_000_000


def refuse_other_kind(path: Path, *, wanted: Format) -> None:
    """Raise ``WeightsError`` if the file is surely no ``wanted``: it says what the file is. A file of no known kind passes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror}", allowed=_FORMATS[wanted]) from error
    if not head:
        raise WeightsError(
            f"'{path}' is empty: it cannot be read as {_NAMES[wanted]}", allowed=f"{_FORMATS[wanted]}, downloaded whole"
        )
    stripped = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _BEGINNINGS:
        if stripped.startswith(beginning):
            raise WeightsError(
                f"'{path}' ({path.stat().st_size} bytes) {what}; it begins with {_shown(head)}",
                allowed=f"{_FORMATS[wanted]}, downloaded whole",
            )
    if head[257:262] == _TAR:
        raise WeightsError(f"'{path}' is a tar archive", allowed=f"{_FORMATS[wanted]}, which may be in this archive")
    found = _kind_of_archive(path) if head.startswith(_ZIP) else _kind_of(head)
    if found not in (None, wanted):
        assert found is not None
        raise WeightsError(f"'{path}' is {_FORMATS[found]}, and its name ends in '{path.suffix}'", allowed=_FORMATS[wanted])


def begins_with(path: Path) -> str:
    """The first bytes of a file as text, for messages."""
    with path.open("rb") as stream:
        return _shown(stream.read(_SHOWN_BYTES))


def _shown(head: bytes) -> str:
    return repr(head[:_SHOWN_BYTES])[1:]


def _kind_of(head: bytes) -> Format | None:
    """The format of a file that is no zip archive, as far as its first bytes say it."""
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        return "safetensors"
    # Field 1 (the version) as a small number, then one of the fields 2 to 8.
    is_onnx = head[:1] == b"\x08" and len(head) > 2 and head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    return "onnx" if is_onnx else None


def _kind_of_archive(path: Path) -> Format | None:
    """The format of a zip archive; raises ``WeightsError`` if it is cut off or of a kind that is no weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged directory can raise anything
        raise WeightsError(
            f"'{path}' ({path.stat().st_size} bytes) begins like a zip archive, and the directory at its end is missing or "
            "broken",
            allowed="a complete file: copy or download it again",
        ) from error
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise WeightsError(f"'{path}' {_TORCHSCRIPT[0]}; no code of the file was run", allowed=_TORCHSCRIPT[1])
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if any(name.endswith("/archive_format") or "/models/" in name for name in names):
        return "pt2"
    first = f"'{names[0][:80]}' and {len(names) - 1} more" if names else "nothing"
    raise WeightsError(f"'{path}' is a zip archive that holds {first}", allowed=" or ".join(_FORMATS.values()))


def check_archive(path: Path, *, allowed: str) -> None:
    """Refuse a zip archive whose members are more than the file: compressed, twice, or one over another.

    PyTorch and torch.export write all members as they are, so a file of 3 MB cannot become 3 GB of memory.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for info in members:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise WeightsError(
                f"'{path}' holds {info.filename[:80]!r} compressed: {info.compress_size} bytes become {info.file_size}",
                allowed=f"{allowed}; its members are never compressed",
            )
    if len({info.filename.lower() for info in members}) < len(members):
        raise WeightsError(f"'{path}' holds a member twice", allowed=allowed)
    total, size = sum(info.file_size for info in members), path.stat().st_size
    if total > size:
        raise WeightsError(f"the members of '{path}' have {total} bytes, and the file has {size}", allowed=allowed)
