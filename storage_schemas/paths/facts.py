"""Size and sha256 of files, and how a file differs from the one that a manifest describes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from storage_schemas.paths.path import StorePath

__all__ = [
    "FileFacts",
    "FileProblem",
    "FileState",
    "as_mappings",
    "check_file",
    "difference",
    "facts_of",
    "sha256_known",
    "sha256_of",
]


class FileFacts(NamedTuple):
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


class FileState(NamedTuple):
    """Size in bytes and time of the last change (seconds since 1970) of a file, as a listing gives them."""

    size: int
    changed: float


@dataclass(frozen=True)
class FileProblem:
    """Why a file is not the one that a manifest describes; ``unreadable`` means that it may still be intact."""

    kind: Literal["missing", "size", "content", "unreadable"]
    detail: str

    def __str__(self) -> str:
        return self.detail


def as_mappings(files: Mapping[str, FileFacts]) -> dict[str, dict[str, Any]]:
    """The facts of files by name, as plain mappings for JSON."""
    return {name: facts._asdict() for name, facts in files.items()}


def difference(found: FileFacts, wanted: FileFacts) -> FileProblem | None:
    """How the file ``found`` differs from the file ``wanted``; None if they are equal."""
    if found.size != wanted.size:
        return FileProblem("size", f"has {found.size} bytes where the manifest says {wanted.size}")
    return None if found.sha256 == wanted.sha256 else FileProblem("content", "does not match its sha256")


def check_file(path: StorePath, facts: FileFacts) -> FileProblem | None:
    """Compare a file with ``facts``; only a file of the right size is read."""
    try:
        state = path.state()
        if state is None:
            return FileProblem("missing", "is missing")
        return difference(FileFacts(state.size, path.sha256() if state.size == facts.size else ""), facts)
    except OSError as error:
        return FileProblem("unreadable", f"cannot be read ({error.strerror})")


def facts_of(path: StorePath) -> FileFacts:
    """Size and sha256 of a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    return FileFacts(_state(path).size, path.sha256())


def sha256_known(path: StorePath) -> str:
    """The sha256 of a file, read once a process as long as size and time of change stay the same.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    return _sha256(path, _state(path), os.getpid())


@lru_cache(maxsize=1 << 16)
def _sha256(path: StorePath, state: FileState, process: int) -> str:
    return path.sha256()


def _state(path: StorePath) -> FileState:
    state = path.state()
    if state is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    return state


def sha256_of(blocks: Iterable[bytes]) -> str:
    """The sha256, in hexadecimal, of all blocks together."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
