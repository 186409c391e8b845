"""Timing of several subjects in turn on one device, and ratios with intervals.

The load of a machine changes within minutes, so only times of the same round are compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bench.results import Ratio
from stages.progress import progress

__all__ = ["F64", "Subject", "interleaved", "one_core", "ratio"]

Subject = Callable[[int], object]
"""A function to time; its argument is the number of the round."""

F64 = npt.NDArray[np.float64]

_DRAWS = 10_000
_PERCENTILES = (2.5, 97.5)


def interleaved(
    subjects: Mapping[str, Subject], *, rounds: int, title: str, synchronize: Callable[[], None] = lambda: None
) -> dict[str, F64]:
    """The seconds [rounds] of each subject, by its name.

    Each runs once in every round, in an order that is drawn for that round. So a machine that gets slower, and caches that
    the subject before has filled, affect all subjects alike. One round before the first is not counted. ``synchronize`` waits
    until the device, such as a GPU, has finished.
    """
    seconds = {name: np.zeros(rounds) for name in subjects}
    names, generator = list(subjects), np.random.default_rng(0)
    with progress(f"bench: {title}", rounds, "rounds") as bar:
        for name in names:
            _timed(subjects[name], 0, synchronize)
        for turn in range(rounds):
            for name in generator.permutation(names).tolist():
                seconds[name][turn] = _timed(subjects[name], turn, synchronize)
            bar.advance()
    return seconds


def _timed(subject: Subject, turn: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    subject(turn)
    synchronize()
    return time.perf_counter() - start


def ratio(seconds: F64, reference: F64) -> Ratio:
    """The median over rounds of ``seconds`` / ``reference``, with its 95 % interval: a percentile bootstrap of the rounds."""
    ratios = seconds / reference
    draws = np.random.default_rng(0).integers(0, len(ratios), (_DRAWS, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), _PERCENTILES)
    return Ratio(float(np.median(ratios)), (float(low), float(high)))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep all threads of this process on one core, and torch to one thread: libraries have pools of their own."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    _stay_on({min(cores)})
    try:
        yield
    finally:
        _stay_on(cores)
        torch.set_num_threads(threads)


def _stay_on(cores: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # The thread has ended meanwhile.
            os.sched_setaffinity(int(task.name), cores)
