"""The view of each epoch, and the weight of each loss term in it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.settings import DistillSettings, Phase, ScheduleName
from stages.training.schedule import Weights, epoch_weights, view_of_epoch


def _weights(schedule: ScheduleName | tuple[Phase, ...], epochs: int = 4, *, switch: float = 0.5) -> list[Weights]:
    return epoch_weights(DistillSettings(schedule=schedule, epochs=epochs, teacher_weight=0.6, switch=switch))


def _numbers(weights: list[Weights]) -> list[tuple[float, float, float]]:
    return [(round(each.ground_truth, 6), round(each.primary, 6), round(each.senior, 6)) for each in weights]


TRUTH, PRIMARY, SENIOR = (1.0, 0.0, 0.0), (0.4, 0.6, 0.0), (0.4, 0.0, 0.6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("none", [TRUTH] * 4),
        ("primary", [PRIMARY] * 4),
        ("senior", [SENIOR] * 4),
        ("together", [(0.4, 0.3, 0.3)] * 4),
        ("primary_then_senior", [PRIMARY, PRIMARY, SENIOR, SENIOR]),
        ("senior_then_primary", [SENIOR, SENIOR, PRIMARY, PRIMARY]),
        ("blend", [PRIMARY, (0.4, 0.4, 0.2), (0.4, 0.2, 0.4), SENIOR]),
    ],
)
def test_a_named_schedule_gives_these_weights(schedule: ScheduleName, expected: list[tuple[float, float, float]]) -> None:
    assert _numbers(_weights(schedule)) == expected


def test_the_switch_is_a_share_of_the_epochs() -> None:
    assert _numbers(_weights("primary_then_senior", 10, switch=0.2)) == [PRIMARY] * 2 + [SENIOR] * 8
    assert _numbers(_weights("primary_then_senior", 3, switch=1.0)) == [PRIMARY] * 3
    assert _numbers(_weights("primary_then_senior", 3, switch=0.0)) == [SENIOR] * 3


def test_the_last_epochs_use_ground_truth() -> None:
    settings = DistillSettings(epochs=9, teacher_weight=0.6, finish=1 / 3)
    assert _numbers(epoch_weights(settings)) == [PRIMARY] * 3 + [SENIOR] * 3 + [TRUTH] * 3


@pytest.mark.parametrize("epochs", [2, 3, 4, 5])
@pytest.mark.parametrize("finish", [0.0, 0.33, 0.9])
@pytest.mark.parametrize("switch", [0.1, 0.5, 0.9])
def test_rounding_leaves_neither_teacher_out(epochs: int, finish: float, switch: float) -> None:
    weights = _numbers(epoch_weights(DistillSettings(epochs=epochs, teacher_weight=0.6, finish=finish, switch=switch)))
    assert len(weights) == epochs
    assert {PRIMARY, SENIOR} <= set(weights)


def test_one_epoch_is_too_short_for_two_teachers() -> None:
    with pytest.raises(ValidationError, match="needs at least 2 epochs"):
        DistillSettings(epochs=1)


def test_a_blend_of_one_epoch_uses_the_primary() -> None:
    assert _numbers(_weights("blend", 1)) == [PRIMARY]


def test_phases_are_used_unchanged() -> None:
    phases = (Phase(epochs=1, primary=2.0), Phase(epochs=2, ground_truth=0.1, senior=0.5))
    assert _weights(phases, 3) == [Weights(0.0, 2.0, 0.0), Weights(0.1, 0.0, 0.5), Weights(0.1, 0.0, 0.5)]


def test_epochs_cycle_through_the_augmented_views() -> None:
    assert [view_of_epoch(epoch, 3) for epoch in range(7)] == [1, 2, 3, 1, 2, 3, 1]
    assert [view_of_epoch(epoch, 0) for epoch in range(3)] == [0, 0, 0]
