"""The pieces that a draft is made of: a part is finished when the marker that describes its files is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.bucket import BucketPath, ObjectFacts
from storage_schemas.paths.local import sha256_file, sync_files, write_atomic
from storage_schemas.paths.node_cache import Folder, RemoteFolder, here
from storage_schemas.paths.path import StorePath, children, files_below, in_threads, mirror, upload
from storage_schemas.store.manifest import FileFacts, as_mappings, difference

__all__ = [
    "MARKER",
    "Part",
    "copy_part",
    "facts_of",
    "file_problem",
    "finish_part",
    "finished_parts",
    "is_unreadable",
    "markers_of",
    "part_folder",
    "read_marker",
    "read_part",
    "size_problem",
]

log = logging.getLogger(__name__)

_UNREADABLE = "cannot be read"
MARKER = ".part.json"
"""How the name of a marker ends."""


@dataclass(frozen=True)
class Part:
    """A finished piece of a draft: its files with their facts, and what the worker noted about it."""

    name: str
    files: dict[str, FileFacts]
    notes: dict[str, Any]


def file_problem(folder: StorePath, name: str, facts: FileFacts) -> str:
    """What is wrong with the file ``name`` below ``folder``, or an empty text if it has the size and sha256 of ``facts``."""
    path = folder / name
    try:
        size = _size(path)
        if size is None:
            return f"{name} is missing"
        # A file of another size is not read.
        found = difference(FileFacts(size, sha256_file(path) if size == facts.size else ""), facts)
        return f"{name} {found}" if found else ""
    except OSError as error:
        return f"{name} {_UNREADABLE} ({error.strerror})"


def is_unreadable(problem: str) -> bool:
    """Whether a file was not found to be damaged, but could not be looked at: it may be whole, and nothing is to go for it."""
    return f" {_UNREADABLE} (" in problem


def size_problem(name: str, facts: FileFacts, sizes: Mapping[str, ObjectFacts]) -> str:
    """What is wrong with a file as far as a listing tells, by name what is there: nothing is read."""
    if name not in sizes:
        return f"{name} is missing"
    found = difference(FileFacts(sizes[name].size, facts.sha256), facts)
    return f"{name} {found}" if found else ""


def _size(path: StorePath) -> int | None:
    """In bytes; None where there is no such file."""
    if isinstance(path, BucketPath):
        found = path.facts()
        return found.size if found else None
    return path.stat().st_size if path.is_file() else None


def facts_of(path: StorePath) -> FileFacts:
    """Size and sha256 of a file as it is."""
    size = _size(path) if isinstance(path, BucketPath) else path.stat().st_size
    return FileFacts(size or 0, sha256_file(path))


def finish_part(folder: StorePath, name: str, files: Sequence[str], *, notes: Mapping[str, Any] | None = None) -> Part:
    """Sync and hash the ``files`` of a part, then write its marker: the worker's last act.

    They are names below ``folder``, or where that lies in a bucket, below its mirror on this node.
    """
    sync_files(folder, files)
    part = Part(name, {file: facts_of(mirror(folder) / file) for file in files}, dict(notes or {}))
    upload(folder, files)
    text = json.dumps({**vars(part), "files": as_mappings(part.files)}, allow_nan=False)
    write_atomic(folder / f"{name}{MARKER}", text.encode())
    return part


def copy_part(source: Path, folder: StorePath, name: str) -> Part:
    """Bring all that lies below ``source``, a folder of this node, below ``folder`` as a finished part."""
    files = sorted(files_below(source))
    for file in files:
        target = mirror(folder) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (source / file).replace(target)
    return finish_part(folder, name, files)


def read_marker(marker: StorePath) -> Part | None:
    """What a marker says, or None if it cannot be read; its files are not looked at."""
    try:
        raw = json.loads(marker.read_bytes())
        return Part(raw["name"], {name: FileFacts(**facts) for name, facts in raw["files"].items()}, raw["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def markers_of(folder: StorePath) -> list[Part]:
    """What all markers of a folder say, by name; files are not looked at."""
    markers = [path for path in children(folder)[1] if path.name.endswith(MARKER)]
    read = in_threads(read_marker, markers) if isinstance(folder, BucketPath) else map(read_marker, markers)
    return [part for part in read if part]


def finished_parts(folder: StorePath) -> Iterator[Part]:
    """The parts of a folder whose files are as they were; others are logged.

    In a bucket sizes tell that, and whoever reads an object looks at its sha256.
    """
    sizes = files_below(folder) if isinstance(folder, BucketPath) else None
    for part in markers_of(folder):
        problems = (
            file_problem(folder, name, facts) if sizes is None else size_problem(name, facts, sizes)
            for name, facts in part.files.items()
        )
        bad = next(filter(None, problems), None)
        if bad is None:
            yield part
        else:
            _warn(folder, bad)


def read_part(folder: StorePath, name: str) -> Part | None:
    """The finished part ``name``, its files on this node; None if it is not there or one is not as it was (logged).

    Raises:
        OSError: it cannot be told, since a bucket, or this node's disk, does not answer.
    """
    part = read_marker(folder / f"{name}{MARKER}")
    if part is None:
        return None
    if isinstance(folder, BucketPath):
        try:
            here(part_folder(folder, part))
        except CorruptEntryError as error:
            _warn(folder, str(error))
            return None
        return part
    bad = [problem for file, facts in part.files.items() if (problem := file_problem(folder, file, facts))]
    if bad:
        _warn(folder, bad[0])
        return None
    return part


def part_folder(folder: StorePath, part: Part) -> Folder:
    """The folder with the files of a part, to be handed to another process."""
    return folder if isinstance(folder, Path) else RemoteFolder(folder, tuple(part.files.items()))


def _warn(folder: StorePath, problem: str) -> None:
    log.warning("Unfinished work in %s is not used: %s", folder, problem)
