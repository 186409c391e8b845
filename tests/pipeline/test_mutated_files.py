"""Mutated YAML files and exports: each is used or refused in words, within 10 s and 500 MB."""

from __future__ import annotations

import pytest

from tests.support.file_mutations import KINDS, read_mutated

pytestmark = pytest.mark.slow

_MB, _SECONDS = 500, 10


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("numbers", [range(100), pytest.param(range(100, 1_100), marks=pytest.mark.long)])
def test_every_mutated_file_is_used_or_refused_in_words(kind: str, numbers: range) -> None:
    found = read_mutated(kind, numbers)
    assert found.faults == []
    # Both happen often: else the mutations test little.
    assert found.used > 0.1 * len(numbers)
    assert found.refused > 0.1 * len(numbers)
    assert found.longest_seconds < _SECONDS
    assert found.grown_mb < _MB
