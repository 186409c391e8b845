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


class Progress:
    """Counts what is done of ``total``, and shows it; made by ``progress``."""

    def __init__(self, title: str, total: int, unit: str, show: Callable[[], None], clock: Callable[[], float]) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._found = 0
        self._show, self._clock = show, clock
        self._started = clock()

    def found(self, count: int) -> None:
        """Note ``count`` as done by an earlier run: they count, but not towards the rate."""
        self._found += count
        self.advance(count)

    def advance(self, count: int = 1) -> None:
        """Note ``count`` more as done; 0 shows that the work goes on."""
        self.done += count
        self._show()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._started

    @property
    def rate(self) -> float:
        """Done a second by this run; 0 before the first."""
        return (self.done - self._found) / self.seconds if self.seconds > 0 else 0.0

    @property
    def count(self) -> str:
        """Such as ``1,200/5,000 people``."""
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def state(self) -> str:
        """Such as ``1,200/5,000 people, 310/s, 12 s left``."""
        parts = [self.count]
        if self.rate > 0:
            parts.append(f"{_rate(self.rate)}/s")
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts)


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
    write(f"{counter.state}, done in {duration(counter.seconds)}")


@contextmanager
def _bar(title: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> Iterator[Progress]:
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[state]}"),
    )
    # Messages on a terminal go above the bar; those that the user has sent elsewhere still go there.
    with rich_progress.Progress(*columns, console=Console(file=stream), redirect_stderr=sys.stderr.isatty()) as bars:
        task = bars.add_task(title, total=total, state="")
        counter = Progress(title, total, unit, lambda: bars.update(task, completed=counter.done, state=counter.state), clock)
        yield counter
        bars.update(task, state=f"{counter.state}, done in {duration(counter.seconds)}")


def duration(seconds: float) -> str:
    """A time as people say it: ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _rate(rate: float) -> str:
    """Three digits at most below a thousand: ``0.25``, ``3.1``, ``310``, ``1,200``."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"
