"""Sizes, times, rates and counts as text."""

from __future__ import annotations

import pytest

from stages.humanize import age_text, count_text, duration, plural, rate_text, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (97_000_000_000, "97 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_a_size_has_two_or_three_digits(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
    ],
)
def test_an_age_is_in_the_largest_unit_that_counts_two(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def test_a_count_agrees_with_its_noun() -> None:
    assert [plural(1, "entry"), plural(0, "entry"), plural(1204, "file")] == ["1 entry", "0 entries", "1,204 files"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (333.25, "333 B"), (1000, "1.00 kB"), (12_340, "12.3 kB"), (99_960, "100 kB"), (978_000_000, "978 MB")],
)
def test_a_size_can_have_three_digits(size: float, text: str) -> None:
    assert size_text(size, digits=3) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (61.5, "1 min 02 s")])
def test_a_duration_below_a_minute_can_have_decimals(seconds: float, text: str) -> None:
    assert duration(seconds, decimals=1) == text


@pytest.mark.parametrize(("rate", "text"), [(0.254, "0.25/s"), (3.14, "3.1/s"), (310.4, "310/s"), (1200.0, "1,200/s")])
def test_a_rate_has_the_digits_that_matter(rate: float, text: str) -> None:
    assert rate_text(rate) == text


def test_thousands_are_separated() -> None:
    assert count_text(1234567) == "1,234,567"
