"""How trainings are shared out over processors, by hand; the trainings themselves run in tests/pipeline."""

from __future__ import annotations

import pytest

from stages.training import cpus_of_process


@pytest.mark.parametrize(
    ("nodes", "processes", "cpus"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 4, 0.5),
        ([16], 3, 5),
        ([16, 16, 16, 16], 4, 16),  # one on each node, not four on the first
        ([16, 16], 4, 8),
        ([16, 4], 2, 8),
        ([0, 8], 1, 8),  # a head without processors
        ([3, 3], 4, 1),
    ],
)
def test_every_process_gets_the_most_for_which_all_find_a_place(nodes: list[int], processes: int, cpus: float) -> None:
    assert cpus_of_process(nodes, processes) == cpus
