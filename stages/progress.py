"""Progress of long work: a bar in a terminal, or a line every few seconds where there is no terminal (the log of a Ray job)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich import progress as rich_progress
from rich.console import Console

from stages.humanize import duration, rate_text

__all__ = ["Progress", "progress"]

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_SAME_LINES = 30.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_OF_A_RATE = 10.0
"""The shortest time over which a rate is measured; before that no rate and no time left are shown."""


class Progress:
    """Counts finished items out of ``total`` and shows the count; created by ``progress``."""

    def __init__(self, title: str, total: int, unit: str, show: Callable[[], None], clock: Callable[[], float]) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._found = 0
        self._show, self._clock = show, clock
        self._started = clock()
        self._since = self._started, 0
        """Where the rate begins: the time, and the number of items that this run had finished by then."""

    def found(self, count: int) -> None:
        """Add ``count`` items that an earlier run finished; they do not count for the rate."""
        self._found += count
        self.done += count
        self._show()

    def advance(self, count: int = 1) -> None:
        """Add ``count`` finished items; 0 shows that the work continues."""
        self.done += count
        self._show()

    def started(self, count: int) -> None:
        """Add the first ``count`` finished items and measure the rate from here, so that it leaves out the start-up time.

        Do not use it for parallel tasks: they finish in waves, and the rate after the first wave would be far too high.
        """
        self.done += count
        self._since = self._clock(), self._own
        self._show()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def count(self) -> str:
        """For example ``1,200/5,000 instances``."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def state(self) -> str:
        """For example ``1,200/5,000 instances, 310/s, 12 s left``; only the count until a rate is known."""
        rate = self._rate
        if not rate:
            return self.count
        left = [f"{duration((self.total - self.done) / rate)} left"] if self.done < self.total else []
        return ", ".join([self.count, rate_text(rate), *left])

    @property
    def outcome(self) -> str:
        """For example ``5,000/5,000 instances, 290/s, done in 17 s``; the rate is that of the whole time."""
        overall = [rate_text(self._own / self.seconds)] if self._own and self.seconds > 0 else []
        return ", ".join([self.count, *overall, f"done in {duration(self.seconds)}"])

    @property
    def _own(self) -> int:
        """Items that this run finished."""
        return self.done - self._found

    @property
    def _rate(self) -> float:
        """Finished items per second; 0 until it is measured over long enough."""
        since, before = self._since
        seconds = self._clock() - since
        return (self._own - before) / seconds if seconds >= _SECONDS_OF_A_RATE else 0.0


@contextmanager
def progress(
    title: str,
    total: int,
    unit: str,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Show the progress of the body, which calls ``advance``.

    Args:
        title: begins each line; it names the stage.
        total: the number of items.
        unit: the items, in the plural.
        stream: where to write; None is standard output. A terminal gets a bar. Anything else gets a line every five
            seconds (every thirty while the count stays the same) and one at the end.
        clock: a monotonic time in seconds.
    """
    stream = sys.stdout if stream is None else stream
    shown = _bar if stream.isatty() else _lines
    with shown(title, total, unit, stream, clock) as counter:
        yield counter


@contextmanager
def _lines(title: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> Iterator[Progress]:
    last, written = clock(), -1

    def write(text: str) -> None:
        stream.write(f"{title}: {text}\n")
        stream.flush()

    def show() -> None:
        nonlocal last, written
        if clock() - last >= (_SECONDS_BETWEEN_LINES if counter.done != written else _SECONDS_BETWEEN_SAME_LINES):
            last, written = clock(), counter.done
            write(counter.state)

    counter = Progress(title, total, unit, show, clock)
    try:
        yield counter
    except BaseException:
        write(f"stopped after {duration(counter.seconds)} at {counter.count}")
        raise
    write(counter.outcome)


@contextmanager
def _bar(title: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> Iterator[Progress]:
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[state]}"),
    )
    last = clock()

    def show() -> None:
        nonlocal last
        bars.update(task, completed=counter.done, state=counter.state)
        if clock() - last >= _SECONDS_BETWEEN_DRAWINGS:
            last = clock()
            bars.refresh()

    # Standard error goes above the bar only if it is a terminal: a redirected one must stay redirected. Rich's refresh
    # thread is off, because it would take CPU time from work that is being measured.
    with rich_progress.Progress(
        *columns, console=Console(file=stream), redirect_stderr=sys.stderr.isatty(), auto_refresh=False
    ) as bars:
        task = bars.add_task(title, total=total, state="")
        counter = Progress(title, total, unit, show, clock)
        yield counter
        bars.update(task, state=counter.outcome)
