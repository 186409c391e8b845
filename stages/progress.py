"""How far a long piece of work is: a bar in a terminal, and a line every few seconds where there is none (a Ray job's log)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich import progress as rich_progress
from rich.console import Console

__all__ = ["Progress", "duration", "progress"]

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_SAME_LINES = 30.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_OF_A_RATE = 10.0
"""What a rate is measured over at least, before anything is said about the time left."""


class Progress:
    """Counts what is done of ``total``, and shows it; made by ``progress``."""

    def __init__(self, title: str, total: int, unit: str, show: Callable[[], None], clock: Callable[[], float]) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._found = 0
        self._show, self._clock = show, clock
        self._started = clock()
        self._since = self._started, 0
        """Where the rate begins: when, and how much this run had done by then."""

    def found(self, count: int) -> None:
        """Note ``count`` as done by an earlier run: they count, but not towards the rate."""
        self._found += count
        self.done += count
        self._show()

    def advance(self, count: int = 1) -> None:
        """Note ``count`` more as done; 0 shows that the work goes on."""
        self.done += count
        self._show()

    def started(self, count: int) -> None:
        """Note the first ``count`` as done: the rate begins here, and does not rest on how long it took to start.

        Not for tasks that run side by side: those end in waves, and after the first wave a rate would be far too high.
        """
        self.done += count
        self._since = self._clock(), self._own
        self._show()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._started

    @property
    def count(self) -> str:
        """Such as ``1,200/5,000 people``."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def state(self) -> str:
        """Such as ``1,200/5,000 people, 310/s, 12 s left``; the count alone until a rate is known."""
        rate = self._rate
        if not rate:
            return self.count
        left = [f"{duration((self.total - self.done) / rate)} left"] if self.done < self.total else []
        return ", ".join([self.count, _per_second(rate), *left])

    @property
    def outcome(self) -> str:
        """Such as ``5,000/5,000 people, 290/s, done in 17 s``, with the rate over all of that time."""
        overall = [_per_second(self._own / self.seconds)] if self._own and self.seconds > 0 else []
        return ", ".join([self.count, *overall, f"done in {duration(self.seconds)}"])

    @property
    def _own(self) -> int:
        """Done by this run."""
        return self.done - self._found

    @property
    def _rate(self) -> float:
        """Done a second; 0 before that says anything."""
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
    """Show on ``stream`` (standard output without it) how far the body is; the body calls ``advance``.

    Args:
        title: names the stage.
        total: how many there are.
        unit: what is counted, in the plural.
        stream: a terminal gets a bar, anything else a line every five seconds, every thirty while nothing
            changes, and one at the end.
        clock: seconds that never go back.
    """
    stream = sys.stdout if stream is None else stream
    shown = _bar if stream.isatty() else _lines
    with shown(title, total, unit, stream, clock) as counter:
        yield counter


@contextmanager
def _lines(title: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> Iterator[Progress]:
    last, told = clock(), -1

    def write(text: str) -> None:
        stream.write(f"{title}: {text}\n")
        stream.flush()

    def show() -> None:
        nonlocal last, told
        if clock() - last >= (_SECONDS_BETWEEN_LINES if counter.done != told else _SECONDS_BETWEEN_SAME_LINES):
            last, told = clock(), counter.done
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

    # Messages on a terminal go above the bar; those that the user has sent elsewhere still go there. Rich's own thread, which
    # draws ten times a second whatever happens, would take its time from work that is being measured.
    with rich_progress.Progress(
        *columns, console=Console(file=stream), redirect_stderr=sys.stderr.isatty(), auto_refresh=False
    ) as bars:
        task = bars.add_task(title, total=total, state="")
        counter = Progress(title, total, unit, show, clock)
        yield counter
        bars.update(task, state=counter.outcome)


def duration(seconds: float) -> str:
    """A time as people say it: ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _per_second(rate: float) -> str:
    """Three digits at most below a thousand: ``0.25/s``, ``3.1/s``, ``310/s``, ``1,200/s``."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{rate:.2f}/s"
