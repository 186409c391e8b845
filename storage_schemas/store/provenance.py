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
    """The provenance of what this process makes now."""
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
    """Cached: this takes longer than everything else here."""
    # Imported late: it would take half of the import time of ls.
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
