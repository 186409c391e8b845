"""The files of an ONNX network: the .onnx file, and the data files beside it that it names for its tensors.

PyTorch writes the weights to a data file by default since 2.9. The names are found with a small reader of protobuf
(onnx/onnx.proto, field ``external_data``), since the package ``onnx`` is not needed for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from storage_schemas.errors import WeightsError
from storage_schemas.paths.facts import FileState
from storage_schemas.paths.local import LocalPath

__all__ = ["data_files"]

_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The fields of each message that can hold tensors, with their message."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_ALLOWED = "data files in the folder of the .onnx file or below it; or one file: torch.onnx.export(..., external_data=False)"


def data_files(path: Path) -> tuple[str, ...]:
    """The names of the data files of an ``.onnx`` file, relative to its folder, sorted; none for other files.

    Raises:
        WeightsError: a data file is missing, or its name or a link leads out of the folder.
    """
    if path.suffix != ".onnx":
        return ()
    names = _names(path, LocalPath(path).state())
    for name in names:
        _check(path, name)
    return names


def _check(path: Path, name: str) -> None:
    pure, folder = PurePosixPath(name), path.parent.resolve()
    leads_out = not name or pure.is_absolute() or ".." in pure.parts or not name.isprintable()
    if leads_out or not (path.parent / pure).resolve().is_relative_to(folder):
        raise WeightsError(f"The weights of '{path}' are in {name!r}, which leads out of its folder", allowed=_ALLOWED)
    if not (path.parent / pure).is_file():
        raise WeightsError(f"The weights of '{path}' are in the file {name!r} beside it, which is missing", allowed=_ALLOWED)


@lru_cache(maxsize=64)
def _names(path: Path, _state: FileState | None) -> tuple[str, ...]:
    """The names in a file, which is read once as long as its state stays the same."""
    try:
        return tuple(sorted(_in_message(memoryview(path.read_bytes()), "model")))
    except (OSError, ValueError, IndexError):
        return ()  # no ONNX file, which the loader says


def _in_message(message: memoryview, kind: str) -> set[str]:
    """The names in a message and all messages in it."""
    found, left = set[str](), [(message, kind)]
    while left:
        message, kind = left.pop()
        if kind == "tensor":
            found |= _of_tensor(message)
            continue
        for field, value in _fields(message):
            part = _PARTS[kind].get(field)
            if part and isinstance(value, memoryview):
                left.append((value, part))
    return found


def _of_tensor(tensor: memoryview) -> set[str]:
    """The names of the data files of one tensor; a field that stands twice counts twice."""
    found, is_external = set[str](), False
    for field, value in _fields(tensor):
        is_external |= field == _DATA_LOCATION and value == 1
        if field == _EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {number: bytes(text) for number, text in _fields(value) if isinstance(text, memoryview)}
            if entry.get(1) == b"location":
                found.add(entry.get(2, b"").decode())
    return found if is_external else set()


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: numbers, and slices for what has a length.

    Raises:
        ValueError: the message is cut off, or has a group, which ONNX does not use.
        IndexError: a number is cut off.
    """
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 0:
            value, at = _number(message, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 2:
            size, at = _number(message, at)
        if size is None or at + size > len(message):
            raise ValueError("not a protobuf message")
        yield tag >> 3, message[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits in each byte, and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
    return value | message[at] << shift, at + 1
