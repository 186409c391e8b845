"""The trial of an ONNX file in a process of its own, before this process opens it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from stages.networks import onnx_child
from storage_schemas.errors import WeightsError
from storage_schemas.paths.facts import FileState
from storage_schemas.paths.local import LocalPath

__all__ = ["try_onnx"]

_SECONDS, _BYTES_A_SECOND = 6, 20_000_000
"""The trial may compute for six seconds, and one more for each 20 MB of the network."""
_BYTES, _COPIES, _FLOATS_A_PIXEL = 300_000_000, 8, 1000
"""It may allocate 300 MB, eight times the network's files, and 1000 floats for each pixel of its images."""
_SLOWER = 10
"""It may take ten times as long as it computes, since other programs use the processor too."""


def try_onnx(path: Path, *, data: tuple[str, ...], size_wh: tuple[int, int], batch: int) -> None:
    """Load ``path`` and run it once on a batch, in another process with limits of time and memory.

    Raises:
        WeightsError: it cannot be read, fails, crashes onnxruntime, or needs more time or memory than a network of its size.
    """
    files = tuple((file, LocalPath(file).state()) for file in (path, *(path.parent / name for name in data)))
    _try_once(files, size_wh, batch)


@lru_cache(maxsize=64)
def _try_once(files: tuple[tuple[Path, FileState | None], ...], size_wh: tuple[int, int], batch: int) -> None:
    """The trial, which is repeated only if a file changes; a failure is an exception, which is not kept."""
    path, (width, height) = files[0][0], size_wh
    total = sum(state.size for _, state in files if state)
    seconds = _SECONDS + total // _BYTES_A_SECOND
    size = _BYTES + _COPIES * total + _FLOATS_A_PIXEL * 4 * batch * width * height
    numbers = map(str, (width, height, batch, seconds, size))
    # -P: the folder of the script has modules with the names of others, such as profile.
    command = [sys.executable, "-P", onnx_child.__file__, str(path.absolute()), *numbers]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SLOWER * seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _too_slow(path, seconds) from error
    if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_slow(path, seconds)
    lines = ended.stdout.splitlines()
    if ended.returncode < 0 or not lines:
        how = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit status {ended.returncode}"
        raise WeightsError(f"'{path}' crashes onnxruntime ({how})", allowed="a complete ONNX file")
    step, reason = json.loads(lines[-1])
    if step == "read":
        raise WeightsError(f"'{path}' cannot be read as ONNX: {reason}", allowed="a complete ONNX file")
    if step:
        raise WeightsError(
            f"'{path}' fails on an input of {batch}x3x{height}x{width}: {reason}",
            allowed=f"a network that takes Bx3x{height}x{width} images (crop.size_wh), with any batch size",
        )


def _too_slow(path: Path, seconds: int) -> WeightsError:
    return WeightsError(
        f"'{path}' computes for more than {seconds} s on two images; it may hold a loop without end",
        allowed="a network that gives heatmaps within this time",
    )
