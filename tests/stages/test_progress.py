"""Progress on a terminal and in a log, with a clock that the test sets."""

from __future__ import annotations

import io
import threading

import pytest

from stages.progress import progress


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_is_a_line_every_five_seconds_and_one_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("targets", 8000, "instances", stream=stream, clock=clock) as bar:
        for _ in range(8):
            clock.now += 2.5
            bar.advance(1000)
    assert stream.getvalue().splitlines() == [
        "targets: 2,000/8,000 instances",
        "targets: 4,000/8,000 instances, 400/s, 10 s left",
        "targets: 6,000/8,000 instances, 400/s, 5 s left",
        "targets: 8,000/8,000 instances, 400/s",
        "targets: 8,000/8,000 instances, 400/s, done in 20 s",
    ]


def test_the_time_left_does_not_rest_on_how_long_it_took_to_start() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("distill", 100, "steps", stream=stream, clock=clock) as bar:
        clock.now += 60
        bar.started(5)
        for _ in range(19):
            clock.now += 5
            bar.advance(5)
        clock.now += 5
    # 100 s of work after a minute of start-up: at every line 5 steps more, and 5 s less to go.
    lines = stream.getvalue().splitlines()
    assert lines[:4] == [
        "distill: 5/100 steps",
        "distill: 10/100 steps",
        "distill: 15/100 steps, 1.0/s, 1 min 25 s left",
        "distill: 20/100 steps, 1.0/s, 1 min 20 s left",
    ]
    assert lines[-1] == "distill: 100/100 steps, 0.62/s, done in 2 min 40 s"


def test_tasks_that_end_in_waves_are_not_taken_for_faster_than_they_are() -> None:
    """Eight at a time, ten minutes each: after the first wave, and some seconds, seven more waves are left."""
    clock, stream = Clock(), io.StringIO()
    with progress("targets", 64, "tasks", stream=stream, clock=clock) as bar:
        clock.now += 600
        for _ in range(8):
            bar.advance()
            clock.now += 2
    assert "targets: 7/64 tasks, 0.01/s, 1 h 23 min left" in stream.getvalue()


def test_work_that_takes_long_for_one_piece_is_told_every_thirty_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("targets", 5000, "instances", stream=stream, clock=clock) as bar:
        for _ in range(70):
            clock.now += 1
            bar.advance(0)
        bar.advance(5000)
    assert stream.getvalue().splitlines() == [
        "targets: 0/5,000 instances",
        "targets: 0/5,000 instances",
        "targets: 0/5,000 instances",
        "targets: 5,000/5,000 instances, 71/s",
        "targets: 5,000/5,000 instances, 71/s, done in 1 min 10 s",
    ]


def test_short_work_is_one_line() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("prepare", 3, "images", stream=stream, clock=clock) as bar:
        clock.now += 1
        bar.advance(3)
    assert stream.getvalue() == "prepare: 3/3 images, 3.0/s, done in 1 s\n"


def test_what_an_earlier_run_left_counts_as_done_but_not_towards_the_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("targets", 1000, "instances", stream=stream, clock=clock) as bar:
        bar.found(800)
        clock.now += 4
        bar.advance(50)
        clock.now += 10
        bar.advance(50)
    assert stream.getvalue().splitlines() == [
        "targets: 900/1,000 instances, 7.1/s, 14 s left",
        "targets: 900/1,000 instances, 7.1/s, done in 14 s",
    ]


def test_work_that_fails_says_where_it_stopped_and_the_error_passes() -> None:
    clock, stream = Clock(), io.StringIO()

    def interrupted() -> None:
        with progress("distill", 20, "epochs", stream=stream, clock=clock) as bar:
            clock.now += 4
            bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue() == "distill: stopped after 4 s at 1/20 epochs\n"


def test_nothing_to_do_divides_by_nothing() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress("targets", 0, "instances", stream=stream, clock=clock):
        pass
    assert stream.getvalue() == "targets: 0/0 instances, done in 0 s\n"


def test_a_terminal_gets_a_bar_with_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    with progress("targets", 500, "instances", stream=stream, clock=clock) as bar:
        clock.now += 2
        bar.advance(500)
    shown = stream.getvalue()
    assert "500/500 instances, 250/s, done in 2 s" in shown
    assert "\u2501" in shown, "a bar is drawn"


def test_a_bar_is_drawn_by_the_work_alone_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    before = threading.active_count()
    with progress("targets", 500, "instances", stream=stream, clock=clock) as bar:
        assert threading.active_count() == before
        for seconds in (0.05, 0.06, 0.05, 0.06):
            clock.now += seconds
            bar.advance(100)
        bar.advance(100)
    shown = stream.getvalue()
    assert [f"{count}/500" in shown for count in (100, 200, 300, 400)] == [False, True, False, True]
