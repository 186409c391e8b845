"""Who made an entry, when, where and with which libraries: kept in the manifest, never in its hash."""

from __future__ import annotations

import getpass
import os
import platform
import socket
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

__all__ = ["provenance"]

_VERSIONS_OF = ("ray", "torch", "zarr", "numpy", "opencv-python-headless", "simplejpeg", "pycocotools", "onnxruntime")


def provenance() -> dict[str, Any]:
    """Of this process, now."""
    versions = {}
    for name in _VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "user": _user(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a user id that has no name.
        return str(os.getuid())
