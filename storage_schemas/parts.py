"""The pieces that a draft is made of: a part is finished when the marker that describes its files is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage_schemas.atomic import sha256_file, sync_files, write_atomic
from storage_schemas.manifest import FileFacts

__all__ = ["MARKER", "Part", "difference", "facts_of", "file_problem", "finish_part", "read_marked", "read_marker", "read_part"]

log = logging.getLogger(__name__)

MARKER = ".part.json"
"""How the name of a marker ends."""


@dataclass(frozen=True)
class Part:
    """A finished piece of a draft: its files with their facts, and what the worker noted about it."""

    name: str
    files: dict[str, FileFacts]
    notes: dict[str, Any]


def file_problem(folder: Path, name: str, facts: FileFacts) -> str:
    """What is wrong with the file ``name`` below ``folder``, or an empty text if it has the size and sha256 of ``facts``."""
    path = folder / name
    try:
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        # A file of another size is not read.
        found = difference(FileFacts(size, sha256_file(path) if size == facts.size else ""), facts)
        return f"{name} {found}" if found else ""
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def difference(found: FileFacts, wanted: FileFacts) -> str:
    """In which way a file that is ``found`` is not the one that is ``wanted``, or an empty text."""
    if found.size != wanted.size:
        return f"has {found.size} bytes where the manifest says {wanted.size}"
    return "" if found.sha256 == wanted.sha256 else "does not match its sha256"


def facts_of(path: Path) -> FileFacts:
    """Size and sha256 of a file as it is."""
    return FileFacts(path.stat().st_size, sha256_file(path))


def finish_part(folder: Path, name: str, files: Sequence[str], *, notes: Mapping[str, Any] | None = None) -> Part:
    """Sync and hash the ``files`` (names below ``folder``) of a part, then write its marker: the worker's last act."""
    sync_files(folder, files)
    part = Part(name, {file: facts_of(folder / file) for file in files}, dict(notes or {}))
    write_atomic(folder / f"{name}{MARKER}", json.dumps(asdict(part), allow_nan=False).encode())
    return part


def read_marker(marker: Path) -> Part | None:
    """What a marker says, or None if it cannot be read; its files are not looked at."""
    try:
        raw = json.loads(marker.read_bytes())
        return Part(raw["name"], {name: FileFacts(**facts) for name, facts in raw["files"].items()}, raw["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_part(folder: Path, name: str) -> Part | None:
    """The finished part ``name`` of ``folder``, or None if it is not there or any of its files is not as it was (logged)."""
    return read_marked(folder / f"{name}{MARKER}")


def read_marked(marker: Path) -> Part | None:
    """The part behind a marker, or None if any of its files is not as the marker says."""
    part = read_marker(marker)
    if part is None:
        return None
    bad = [problem for name, facts in part.files.items() if (problem := file_problem(marker.parent, name, facts))]
    if bad:
        log.warning("Unfinished work in %s is not used: %s", marker.parent, bad[0])
        return None
    return part
