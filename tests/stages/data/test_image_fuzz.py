"""Mutated images: each is decoded or refused in words, within 10 s and 500 MB, and none ends the process."""

from __future__ import annotations

import pytest

from tests.support.fuzz_child import fuzz

_MB, _SECONDS = 500, 10


@pytest.mark.parametrize("numbers", [range(600), pytest.param(range(600, 100_000), marks=pytest.mark.long)])
def test_every_mutated_image_is_decoded_or_refused_in_words(numbers: range) -> None:
    found = fuzz(numbers, compare_every=5)
    assert found.faults == []
    assert 0.02 < found.decoded / len(numbers) < 0.9
    assert found.longest_seconds < _SECONDS
    assert found.peak_mb < _MB
