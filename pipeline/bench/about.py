"""What figures depend on beside what was measured: the machine, the version of the code, and how it was called."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.device import Machine
from pipeline.bench.scale import Scale
from storage_schemas.store.provenance import provenance

__all__ = ["about_run", "machine"]


def about_run(arguments: Sequence[str], scale: Scale, place: Machine) -> dict[str, Any]:
    """As plain JSON values."""
    return {
        "bench": "cache",
        "command": shlex.join(["python", "-m", "pipeline.bench", *arguments]),
        "odkd": {"version": metadata.version("odkd"), "commit": _commit()},
        "machine": machine(place),
        "scale": asdict(scale),
    }


def machine(place: Machine) -> dict[str, Any]:
    """Nothing that names the machine or its user."""
    known = provenance()
    return {
        "at": known["at"],
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if place.device == "cuda" else None,
        "threads": place.threads,
        "precision": place.precision,
        "python": known["python"],
        "versions": known["versions"],
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """Of the checkout that this file belongs to, ending in ``-dirty`` after changes; None where it belongs to none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed copy may lie inside somebody else's checkout, which does not track it.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        told = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--exclude=*"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
