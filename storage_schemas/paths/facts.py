"""Size and sha256 of files, and how a file differs from the one that a manifest describes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from storage_schemas.paths.path import StorePath

__all__ = ["FileFacts", "FileProblem", "FileState", "as_mappings", "check_file", "difference", "facts_of", "known_facts_of"]


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


def difference(found: FileFacts | None, wanted: FileFacts) -> FileProblem | None:
    """How the file ``found``, if there is one, differs from the file ``wanted``; None if they are equal."""
    if found is None:
        return FileProblem("missing", "is missing")
    if found.size != wanted.size:
        return FileProblem("size", f"has {found.size} bytes where the manifest says {wanted.size}")
    return None if found.sha256 == wanted.sha256 else FileProblem("content", "does not match its sha256")


def check_file(path: StorePath, facts: FileFacts) -> FileProblem | None:
    """Compare a file with ``facts``; only a file of the right size is read."""
    try:
        state = path.state()
        found = state and (facts_of(path) if state.size == facts.size else FileFacts(state.size, ""))
        return difference(found, facts)
    except OSError as error:
        return FileProblem("unreadable", f"cannot be read ({error.strerror})")


def facts_of(path: StorePath) -> FileFacts:
    """Size and sha256 of a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for block in path.blocks():
        digest.update(block)
        size += len(block)
    return FileFacts(size, digest.hexdigest())


def known_facts_of(path: StorePath) -> FileFacts:
    """As ``facts_of``, but the file is read once a process as long as its size and time of change stay the same."""
    return _facts_in_state(path, path.state())


@lru_cache(maxsize=1 << 16)
def _facts_in_state(path: StorePath, state: FileState | None) -> FileFacts:
    return facts_of(path)
