"""Decoding of mutated images in a process of its own, because a fault of a decoder ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.data.exif import orientation_of
from stages.data.image_header import ImageError
from stages.data.images import decode_image, probe_header
from tests.support.image_mutations import mutated
from tests.support.image_samples import unturned
from tests.support.memory import peak_mb

__all__ = ["Fuzzed", "fuzz"]

_ROOT = Path(__file__).parents[2]


@dataclass
class Fuzzed:
    """What came of the images: how many were decoded, and which were not refused in words."""

    decoded: int = 0
    faults: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    peak_mb: float = 0.0


def fuzz(numbers: range, *, compare_every: int) -> Fuzzed:
    """Decode the images of these numbers; a process that is ended by one goes on with the next."""
    total, start = Fuzzed(), numbers.start
    while start < numbers.stop:
        words = [sys.executable, "-m", "tests.support.fuzz_child", str(start), str(numbers.stop), str(compare_every)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=_ROOT)
        lines = done.stdout.splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 else {}
        at = numbers.stop if found else int(lines[-1]) if lines else start
        total.decoded += found.get("decoded", 0)
        total.faults += found.get("faults", [f"image {at} ended the process: {done.returncode} {done.stderr[-300:]}"])
        total.longest_seconds = max(total.longest_seconds, found.get("longest_seconds", 0.0))
        total.peak_mb = max(total.peak_mb, found.get("peak_mb", 0.0))
        start = at if found else at + 1
    return total


def _decode(number: int, *, compare: bool) -> bool:
    """Whether the image is decoded rather than refused."""
    data = mutated(number)
    assert 1 <= orientation_of(data) <= 8
    try:
        header = probe_header(data)
        image_hw3 = decode_image(data, expect_wh=(header.width, header.height))
    except ImageError:
        return False
    assert image_hw3.shape == (header.height, header.width, 3)
    assert image_hw3.dtype == np.uint8
    # OpenCV refuses a JPEG with anything but a marker behind the first one.
    if compare and data.startswith(b"\xff\xd8\xff"):
        # OpenCV multiplies the four colours of CMYK with other rounding.
        assert np.abs(image_hw3.astype(int) - unturned(data)).max() <= 2
    return True


def _main(start: int, stop: int, compare_every: int) -> None:
    result = Fuzzed()
    for number in range(start, stop):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        begun = time.perf_counter()
        try:
            result.decoded += _decode(number, compare=number % compare_every == 0)
        except BaseException:
            result.faults.append(f"image {number}: {traceback.format_exc()}")
        result.longest_seconds = max(result.longest_seconds, time.perf_counter() - begun)
    result.peak_mb = peak_mb()
    sys.stdout.write(f"{json.dumps(vars(result))}\n")


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
