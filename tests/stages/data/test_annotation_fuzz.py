"""Mutated annotation and detections files: each is read or refused in words, within 10 s and 500 MB."""

from __future__ import annotations

import pytest

from tests.support.annotation_child import read_mutated

pytestmark = pytest.mark.slow

_MB, _SECONDS = 500, 10


@pytest.mark.parametrize("kind", ["annotations", "detections"])
@pytest.mark.parametrize("numbers", [range(250), pytest.param(range(250, 5_000), marks=pytest.mark.long)])
def test_every_mutated_file_is_read_or_refused_in_words(kind: str, numbers: range) -> None:
    found = read_mutated(kind, numbers)
    assert found.faults == []
    # Both happen often: else the mutations test little.
    assert found.used > 0.2 * len(numbers)
    assert found.refused > 0.2 * len(numbers)
    assert found.findings > 0
    assert found.longest_seconds < _SECONDS
    assert found.grown_mb < _MB
