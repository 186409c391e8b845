"""The parts of a draft: a part is finished once the marker that describes its files is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.facts import FileFacts, as_mappings
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath

__all__ = [
    "MARKER",
    "Part",
    "copy_part",
    "finish_part",
    "finished_parts",
    "markers_of",
    "read_marker",
    "read_part",
]

log = logging.getLogger(__name__)

MARKER = ".part.json"
"""End of the name of a marker."""


@dataclass(frozen=True)
class Part:
    """A finished piece of a draft: its files with their facts, and what the worker noted about it."""

    name: str
    files: dict[str, FileFacts]
    notes: dict[str, Any]


def finish_part(folder: StorePath, name: str, files: Sequence[str], *, notes: Mapping[str, Any] | None = None) -> Part:
    """Sync and hash the ``files`` of a part, then write its marker: the worker's last act.

    They are names below ``folder``, or where that lies in a bucket, below its mirror on this node.
    """
    part = Part(name, folder.share(files), dict(notes or {}))
    text = json.dumps({**vars(part), "files": as_mappings(part.files)}, allow_nan=False)
    (folder / f"{name}{MARKER}").write_atomic(text.encode())
    return part


def copy_part(source: LocalPath, folder: StorePath, name: str) -> Part:
    """Move all files below ``source``, a folder of this node, below ``folder`` as a finished part."""
    files = sorted(source.files_below())
    for file in files:
        target = folder.mirror() / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (source / file).replace(target)
    return finish_part(folder, name, files)


def read_marker(marker: StorePath) -> Part | None:
    """The part that a marker describes, or None if it cannot be read; the files are not checked."""
    try:
        raw = json.loads(marker.read_bytes())
        return Part(raw["name"], {name: FileFacts(**facts) for name, facts in raw["files"].items()}, raw["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def markers_of(folder: StorePath) -> list[Part]:
    """The content of all markers of a folder, by name; the files are not checked."""
    markers = [path for path in folder.children()[1] if path.name.endswith(MARKER)]
    return [part for part in folder.map(read_marker, markers) if part]


def finished_parts(folder: StorePath, name: str | None = None) -> list[Part]:
    """The parts of a folder whose files are unchanged, all or the one called ``name``; the others are logged."""
    parts = [part for part in markers_of(folder) if name in (None, part.name)]
    problems = folder.check_files({file: facts for part in parts for file, facts in part.files.items()})
    finished = []
    for part in parts:
        if bad := next((file for file in part.files if file in problems), None):
            log.warning("Unfinished work in %s is not used: %s %s", folder, bad, problems[bad])
        else:
            finished.append(part)
    return finished


def read_part(folder: StorePath, name: str) -> Part | None:
    """The finished part ``name``, its files on this node; None if there is none or a file has changed (logged).

    Raises:
        OSError: a bucket, or this node's disk, does not answer.
    """
    parts = finished_parts(folder, name)
    if not parts:
        return None
    try:
        folder.folder(parts[0].files).fetch()
    except CorruptEntryError as error:
        log.warning("Unfinished work in %s is not used: %s", folder, error)
        return None
    return parts[0]
