"""Facts to print beside the figures: the machine, the version of the code, and the command."""

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

__all__ = ["about_run", "machine_facts"]


def about_run(arguments: Sequence[str], scale: Scale, machine: Machine) -> dict[str, Any]:
    """The command, the versions, the machine and the scale, as plain JSON values."""
    return {
        "bench": "cache",
        "command": shlex.join(["python", "-m", "pipeline.bench", *arguments]),
        "odkd": {"version": metadata.version("odkd"), "commit": _commit()},
        "machine": machine_facts(machine),
        "scale": asdict(scale),
    }


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Processor, GPU, threads, precision and versions; nothing identifies the machine or its user."""
    known = provenance()
    return {
        "at": known["at"],
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if machine.device == "cuda" else None,
        "threads": machine.threads,
        "precision": machine.precision,
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
    """The commit of the checkout with this file, with ``-dirty`` after changes; None outside of a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed copy can be inside of another project's checkout, which does not track it.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--exclude=*"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
