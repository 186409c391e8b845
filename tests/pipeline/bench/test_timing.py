"""Timing in turn: the order of the rounds, and ratios compared with numbers computed by hand."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.bench.timing import interleaved, one_core, ratio


def test_ratios_are_of_pairs_and_not_of_medians() -> None:
    """Pairs 1/2, 10/5 and 100/100: the median of 0.5, 2 and 1 is 1, where the medians, 10 and 5, would give 2."""
    assert ratio(np.array([1.0, 10.0, 100.0]), np.array([2.0, 5.0, 100.0])).value == 1.0


def test_a_machine_that_slows_down_does_not_move_the_ratio() -> None:
    slower = np.linspace(1.0, 3.0, 30)
    found = ratio(1.25 * slower, slower)
    assert found.value == pytest.approx(1.25)
    assert found.interval == pytest.approx((1.25, 1.25))


@pytest.mark.parametrize(("count", "low", "high"), [(5, 1.0, 5.0), (7, 2.0, 6.0)])
def test_the_interval_is_that_of_a_resampled_median(count: int, low: float, high: float) -> None:
    """Of 5 ratios 1 to 5, at least three of five draws are 1 with probability 0.058: above 0.025, so the lower bound is 1.

    Of 7, at least four of seven draws are 1 with probability 0.010, and 1 or 2 with 0.108: it is 2. The upper one mirrors it.
    """
    found = ratio(np.arange(1.0, count + 1), np.ones(count))
    assert found.value == (count + 1) / 2
    assert found.interval == (low, high)


def test_one_round_has_an_interval_of_width_zero() -> None:
    found = ratio(np.array([3.0]), np.array([2.0]))
    assert (found.value, found.interval) == (1.5, (1.5, 1.5))


def test_each_round_has_its_own_order_after_an_uncounted_one(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[str, int]] = []

    def subject(name: str) -> Callable[[int], None]:
        return lambda turn: ran.append((name, turn))

    seconds = interleaved({name: subject(name) for name in "abc"}, rounds=60, title="letters")
    assert [turn for _, turn in ran] == [0] * 3 + [turn for turn in range(60) for _ in "abc"]
    orders = ["".join(name for name, _ in ran[start : start + 3]) for start in range(0, len(ran), 3)]
    assert orders[0] == "abc"
    # Of six orders each is expected ten times in 60; fewer than three times it comes with probability 0.002.
    counts = Counter(orders[1:])
    assert set(counts) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert min(counts.values()) >= 3
    assert {name: found.shape for name, found in seconds.items()} == {"a": (60,), "b": (60,), "c": (60,)}
    assert all((found > 0).all() for found in seconds.values())
    assert "bench: letters: 60/60 rounds" in capsys.readouterr().out


def test_the_orders_are_the_same_in_every_run() -> None:
    ran: list[str] = []
    for _ in range(2):
        interleaved({"a": lambda _: ran.append("a"), "b": lambda _: ran.append("b")}, rounds=9, title="letters")
    assert ran[:20] == ran[20:]


def test_the_device_is_synchronised_before_and_after_a_measurement() -> None:
    ran: list[str] = []
    interleaved({"a": lambda _: ran.append("a")}, rounds=1, title="waits", synchronize=lambda: ran.append("waited"))
    assert ran == ["waited", "a", "waited"] * 2


def test_all_threads_stay_on_one_core_and_get_the_others_back() -> None:
    end, ready = threading.Event(), threading.Event()
    seen: list[int] = []

    def other() -> None:
        seen.append(threading.get_native_id())
        ready.set()
        end.wait()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        ready.wait()
        before, threads = os.sched_getaffinity(0), torch.get_num_threads()
        with one_core():
            assert len(os.sched_getaffinity(0)) == 1
            assert os.sched_getaffinity(seen[0]) == os.sched_getaffinity(0)
            assert torch.get_num_threads() == 1
        assert os.sched_getaffinity(0) == os.sched_getaffinity(seen[0]) == before
        assert torch.get_num_threads() == threads
    finally:
        end.set()
        thread.join()
