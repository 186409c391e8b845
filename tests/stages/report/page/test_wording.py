from __future__ import annotations

import pytest

from stages.report.page.content import Difference
from stages.report.page.wording import (
    ap_text,
    difference_sentence,
    is_significant,
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
    ("low", "high", "word"),
    [
        (0.01, 0.05, "significantly better than the A, by 0.030 AP"),
        (-0.09, -0.01, "significantly worse than the A, by 0.050 AP"),
    ],
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
