"""A small entry for tests of the store: three files, two of them parts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store

__all__ = [
    "CONTENT",
    "FILES",
    "RECIPE",
    "WRITER",
    "entries_of",
    "fill",
    "flip_bit",
    "make_entry",
    "signed",
    "truncate",
    "unfinished",
    "write_file",
    "writer_environment",
]

RECIPE: dict[str, Any] = {"threshold": 0.5, "size_wh": (192, 256), "of": {"seed": 0}}
CONTENT = {"bits/c/0": b"first shard", "bits/c/1": b"other shard", "zarr.json": b"{}"}
FILES = list(CONTENT)

WRITER = Path(__file__).resolve().with_name("store_writer.py")
"""A script that writes an entry in a process of its own."""


def writer_environment() -> dict[str, str]:
    """Return an environment in which ``WRITER`` imports this checkout, whichever copy is installed."""
    return {**os.environ, "PYTHONPATH": str(WRITER.parents[2])}


def write_file(draft: Draft, name: str, data: bytes | None = None) -> None:
    """Write one of the files, with its own content or ``data``."""
    path = draft.work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT[name] if data is None else data)


def fill(draft: Draft) -> None:
    """Write all files and finish both parts."""
    for name in FILES:
        write_file(draft, name)
    for block in (0, 1):
        finish_part(draft.folder, f"block-{block}", [f"bits/c/{block}"], notes={"bad": block})


def entries_of(store: Store, kind: str = "targets") -> list[Entry]:
    """Return the readable entries of a kind."""
    return [entry for entry in take_inventory(store).entries.values() if entry.manifest.kind == kind]


def make_entry(store: Store, recipe: Mapping[str, Any] = RECIPE, measured: Mapping[str, Any] | None = None) -> Entry:
    """Commit the entry."""
    with store.draft("targets", recipe) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        return draft.commit(FILES, measured=measured or {})


def unfinished(store: Store, blocks: tuple[int, ...]) -> StorePath:
    """Return the folder of a writer that ended after finishing these blocks."""
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        for block in blocks:
            write_file(draft, f"bits/c/{block}")
            finish_part(draft.folder, f"block-{block}", [f"bits/c/{block}"])
    return draft.folder


def truncate(path: Path) -> None:
    """Remove the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


def flip_bit(path: Path) -> None:
    """Flip one bit of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[3] ^= 0x10
    path.write_bytes(data)


def signed(manifest: Mapping[str, Any]) -> bytes:
    """Return the text of a manifest with these fields and its hash, computed independently of the store."""
    text = json.dumps({name: value for name, value in manifest.items() if name != "sha256"}).removesuffix("}")
    return f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'.encode()
