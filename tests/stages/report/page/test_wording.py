from __future__ import annotations

import pytest

from stages.report.page.content import Difference
from stages.report.page.wording import (
    ap_text,
    bytes_text,
    count_text,
    difference_sentence,
    is_significant,
    seconds_text,
    signed_text,
)
from stages.scoring.bootstrap import PairedBootstrap


@pytest.mark.parametrize(("value", "text"), [(0.6436, "0.644"), (0.0, "0.000"), (1.0, "1.000"), (-1.0, "-")])
def test_ap_has_three_digits_and_minus_one_is_a_dash(value: float, text: str) -> None:
    assert ap_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0126, "+0.013"), (-0.0126, "-0.013"), (0.0004, "0.000"), (-0.0004, "0.000")])
def test_a_difference_has_its_sign_unless_it_rounds_to_zero(value: float, text: str) -> None:
    assert signed_text(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (333.25, "333 B"),
        (99_960, "100 kB"),
        (978_000_000, "978 MB"),
        (12_340, "12.3 kB"),
    ],
)
def test_sizes_have_three_digits_that_count(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (61.5, "61.5 s"),
        (99.96, "1 min 40 s"),
        (439, "7 min 19 s"),
        (7199, "119 min 59 s"),
        (7199.5, "2 h 00 min"),
        (7200, "2 h 00 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_are_told_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_thousands_are_grouped() -> None:
    assert count_text(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.05, "is better than the A by 0.030 AP, and significantly so"), (-0.09, -0.01, "is worse than the A by 0.050 AP")],
)
def test_an_interval_without_zero_is_a_finding(low: float, high: float, word: str) -> None:
    found = PairedBootstrap(0.5, 0.5, (low + high) / 2, low, high, 0.0, 1200)
    assert is_significant(found)
    sentence = difference_sentence(Difference("student", "A", "B", found))
    assert word in sentence
    assert "over 1,200 images" in sentence


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.03), (0.0, 0.02), (-0.02, 0.0)])
def test_an_interval_that_reaches_zero_is_none(low: float, high: float) -> None:
    found = PairedBootstrap(0.5, 0.5, (low + high) / 2, low, high, 0.2, 200)
    assert not is_significant(found)
    assert "NOT significant" in difference_sentence(Difference("student", "A", "B", found))
