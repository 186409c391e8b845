"""Exports, their import, and tar files written member by member."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.transfer import Outcome, export_entries, import_entry, open_export
from tests.support.buckets import local
from tests.support.store_samples import RECIPE, make_entry

__all__ = [
    "BOTH",
    "OTHER",
    "content_of",
    "exported",
    "find_targets",
    "imported",
    "is_untouched",
    "of_first",
    "two_entries",
    "write_tar",
]

BOTH = pytest.mark.parametrize("name", ["out", "out.tar"])
"""Both forms of an export."""

OTHER = {**RECIPE, "threshold": 0.7}
"""A recipe whose key sorts after that of ``RECIPE``: entries are imported in the order of their keys."""


def content_of(export: Path) -> dict[str, bytes]:
    """Read every file of an exported folder."""
    return {path.relative_to(export).as_posix(): path.read_bytes() for path in export.rglob("*") if path.is_file()}


def write_tar(path: Path, files: Mapping[str, bytes], *extra: tarfile.TarInfo) -> None:
    """Write a tar file with ``files``, followed by members without content."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
        for member in extra:
            tar.addfile(member)


def two_entries(root: LocalPath) -> list[Entry]:
    """Make two entries in a store at ``root``."""
    store = Store(root)
    return [make_entry(store, measured={"AP": 0.5}), make_entry(store, OTHER)]


def imported(store: Store, source: Path, advance: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Import every entry of an export, and return the outcomes."""
    export = open_export(LocalPath(source))
    return [import_entry(store, export, each, advance=advance) for each in export.manifests()]


def exported(entries: list[Entry], target: Path) -> Path:
    """Export the entries to a folder or a tar file."""
    export_entries(entries, target, advance=lambda: None)
    return target


def is_untouched(store: Store) -> bool:
    """Whether the store holds no file at all."""
    return [path for path in local(store.root).rglob("*") if not path.is_dir()] == []


def of_first(entries: list[Entry], name: str) -> str:
    """Return the path inside an export of a file of the first entry."""
    return f"store/{entries[0].entry_id}/{entries[0].folder.name}/{name}"


def find_targets(store: Store, recipe: Mapping[str, Any] = RECIPE) -> Entry | None:
    """Find the targets of a recipe in the store."""
    return store.find("targets", recipe)
