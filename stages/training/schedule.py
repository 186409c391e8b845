"""The schedule: which view each epoch reads, and how much each term of the loss weighs in it."""

from __future__ import annotations

from dataclasses import dataclass

from stages.base import ROLES
from stages.settings import DistillSettings, Phase, Role

__all__ = ["Weights", "epoch_weights", "view_of_epoch"]


@dataclass(frozen=True)
class Weights:
    """The weight of each term of the loss in one epoch."""

    ground_truth: float
    primary: float = 0.0
    senior: float = 0.0

    def of(self, role: Role) -> float:
        """The weight of one teacher."""
        return self.primary if role == "primary" else self.senior

    def roles(self) -> tuple[Role, ...]:
        """The teachers whose weight is above zero."""
        return tuple(role for role in ROLES if self.of(role) > 0)


def view_of_epoch(epoch: int, count: int) -> int:
    """The view that ``epoch`` (from 0) trains on: 1 + (epoch mod count), or the plain view 0 where ``count`` is 0."""
    return 1 + epoch % count if count else 0


def epoch_weights(settings: DistillSettings) -> list[Weights]:
    """The weights of every epoch.

    The paper (arXiv 2104.10414) trains on the primary first and then on the senior. It states neither the epoch of the switch
    nor the weights, so both are settings. The last epochs can be left to ground truth (``finish``): the bits show roughly where
    a joint is, and the labels show its exact position.
    """
    if isinstance(settings.schedule, tuple):
        return [weights for phase in settings.schedule for weights in [_of_phase(phase)] * phase.epochs]
    share = settings.teacher_weight
    # With few epochs, rounding must not leave a teacher out.
    left = min(round(settings.epochs * settings.finish), max(settings.epochs - 2, 0))
    epochs = settings.epochs - left
    first = round(epochs * settings.switch)
    if 0 < settings.switch < 1:
        first = min(max(first, 1), epochs - 1)
    truth = 1.0 - share
    primary, senior = Weights(truth, share, 0.0), Weights(truth, 0.0, share)
    # A linear change from the primary in the first epoch to the senior in the last.
    steps = [epoch / max(epochs - 1, 1) for epoch in range(epochs)]
    taught = {
        "none": [Weights(1.0)] * epochs,
        "primary": [primary] * epochs,
        "senior": [senior] * epochs,
        "together": [Weights(truth, share / 2, share / 2)] * epochs,
        "primary_then_senior": [primary] * first + [senior] * (epochs - first),
        "blend": [Weights(truth, share * (1.0 - step), share * step) for step in steps],
        "senior_then_primary": [senior] * first + [primary] * (epochs - first),
    }[settings.schedule]
    return taught + [Weights(1.0)] * left


def _of_phase(phase: Phase) -> Weights:
    return Weights(phase.ground_truth, phase.primary, phase.senior)
