"""Who made an entry, when, where and with which libraries: kept in the manifest, never in its hash."""

from __future__ import annotations

import getpass
import os
import platform
import socket
from datetime import UTC, datetime
from functools import cache
from typing import Any

__all__ = ["provenance"]

_VERSIONS_OF = ("ray", "torch", "zarr", "numpy", "opencv-python-headless", "simplejpeg", "pycocotools", "onnxruntime")


def provenance() -> dict[str, Any]:
    """Of this process, now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "user": _user(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": dict(_versions()),
    }


@cache
def _versions() -> dict[str, str]:
    """Looked up once: it takes longer than everything else that is said here."""
    # It is half of what a list of entries would import.
    from importlib import metadata

    found = {}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a user id that has no name.
        return str(os.getuid())
