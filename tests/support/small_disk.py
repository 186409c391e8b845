"""A real tmpfs of a chosen size, if this user may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["remount", "small_disk"]


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs with ``options`` (size=, nr_inodes=) at ``folder``; skip the test if mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of the tmpfs at ``folder``."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
