"""Reading mutated files in a process of its own, because a fault of a library ends the process; and what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from storage_schemas.errors import OdkdError
from tests.support.memory import peak_mb

__all__ = ["Read", "read_here", "read_in_child"]

_ROOT = Path(__file__).parents[2]


@dataclass
class Read:
    """What came of the files: how many were used and refused in words, and which were neither."""

    used: int = 0
    refused: int = 0
    findings: int = 0
    faults: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    grown_mb: float = 0.0


def read_in_child(module: str, kind: str, numbers: range) -> Read:
    """Run ``python -m module kind start stop``, which calls ``read_here``."""
    words = [sys.executable, "-m", module, kind, str(numbers.start), str(numbers.stop)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=_ROOT)
    lines = done.stdout.splitlines()
    if done.returncode:
        return Read(faults=[f"file {lines[-1] if lines else '?'} ended the process: {done.returncode} {done.stderr[-2000:]}"])
    return Read(**json.loads(lines[-1]))


def read_here(read: Callable[[int, Path], tuple[bool, int]], numbers: range, *, longest_message: int = 5000) -> None:
    """Make and read the file of each number with ``read``, and print what came of them.

    ``read`` gets the number and an empty folder; it returns whether the file was used, and how many findings it had.
    """
    result, before = Read(), peak_mb()
    for number in numbers:
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            try:
                used, findings = read(number, Path(folder))
                result.used += used
                result.refused += not used
                result.findings += findings > 0
            except OdkdError as error:
                result.refused += 1
                if len(str(error)) > longest_message:
                    result.faults.append(f"file {number}: a message of {len(str(error))} characters")
            except BaseException:
                result.faults.append(f"file {number}: {traceback.format_exc()}")
            result.longest_seconds = max(result.longest_seconds, time.process_time() - begun)
    result.grown_mb = peak_mb() - before
    sys.stdout.write(f"{json.dumps(vars(result))}\n")
