"""What a training does, epoch by epoch: which view it reads, which teachers, and how much each counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.data.windows import Pictures
from stages.networks.spec import NetworkSpec
from stages.settings import AugmentSettings, DistillSettings, Phase, TrainSettings
from storage_schemas.paths.node_cache import File, Folder
from storage_schemas.paths.path import StorePath

__all__ = ["EpochPlan", "TrainingPlan", "Weights", "epoch_weights", "view_of_epoch"]


@dataclass(frozen=True)
class Weights:
    """How much each source of targets counts in an epoch."""

    ground_truth: float
    primary: float = 0.0
    senior: float = 0.0


def view_of_epoch(epoch: int, count: int) -> int:
    """The view that epoch ``epoch`` (from 0) trains on: 1 + (epoch mod count), or the plain view 0 where count is 0."""
    return 1 + epoch % count if count else 0


def epoch_weights(settings: DistillSettings) -> list[Weights]:
    """The weights of every epoch.

    The paper (arXiv 2104.10414) teaches from the primary first and then from the senior, and gives neither the epoch of the
    change nor the weights: both are settings. So is whether the last epochs are left to ground truth: bits show a student
    where a joint is, and labels its exact place.
    """
    if isinstance(settings.schedule, tuple):
        return [weights for phase in settings.schedule for weights in [_of_phase(phase)] * phase.epochs]
    share = settings.teacher_weight
    # However few epochs there are, neither teacher is left out by rounding.
    left = min(round(settings.epochs * settings.finish), max(settings.epochs - 2, 0))
    epochs = settings.epochs - left
    first = round(epochs * settings.switch)
    if 0 < settings.switch < 1:
        first = min(max(first, 1), epochs - 1)
    truth = 1.0 - share
    primary, senior = Weights(truth, share, 0.0), Weights(truth, 0.0, share)
    # A linear hand-over from the primary in the first epoch to the senior in the last.
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


@dataclass(frozen=True)
class EpochPlan:
    """The sources of one epoch.

    ``views`` is the folder of a stored view, or None where crops are drawn as they are needed (no cached target depends on
    them); ``primary`` and ``senior`` are folders of targets, needed where the weight is above zero.
    """

    view: int
    weights: Weights
    views: Folder | None = None
    primary: Folder | None = None
    senior: Folder | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """All that a training worker needs to know; pickled to it, so small: data stay in files."""

    title: str
    network: NetworkSpec
    instances: File
    pictures: Pictures
    folder: StorePath
    """Where checkpoints, curves and the final weights go."""
    crop_wh: tuple[int, int]
    size_divisor: int
    epochs: Sequence[EpochPlan]
    train: TrainSettings
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    seed: int
    views_seed: int
    augment: AugmentSettings
    people: Literal["all", "masked"] = "all"
    """``masked``: only those who have a mask."""
    feed_mask: bool = False
    mask_drop: float = 0.0
    adapter_lr: float | None = None
    """The rate of parameters named ``adapter.*``, where it is not ``train.lr``."""
    events: StorePath | None = None
    """Where TensorBoard events go."""

    @property
    def input_wh(self) -> tuple[int, int]:
        """Size (w, h) of the network's input."""
        return self.crop_wh[0] // self.size_divisor, self.crop_wh[1] // self.size_divisor
