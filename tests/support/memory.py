"""The memory of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_mb"]


def peak_mb() -> float:
    """The most memory that this process has had, in MB.

    Not from ``getrusage``: a process that is started by a larger one begins with the peak of that one.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
