"""Exports that were tampered with, and a tar file made member by member."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["content_of", "signed", "write_tar"]


def content_of(export: Path) -> dict[str, bytes]:
    """Every file of an exported folder."""
    return {path.relative_to(export).as_posix(): path.read_bytes() for path in export.rglob("*") if path.is_file()}


def write_tar(path: Path, files: Mapping[str, bytes], *extra: tarfile.TarInfo) -> None:
    """A tar file with ``files``, and then members without content."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
        for member in extra:
            tar.addfile(member)


def signed(manifest: bytes, **changes: Any) -> bytes:  # noqa: ANN401 (as the fields are)
    """A manifest with other fields, and the hash that belongs to it, worked out here."""
    body = {**json.loads(manifest), **changes}
    del body["sha256"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**body, "sha256": hashlib.sha256(text).hexdigest()}).encode()
