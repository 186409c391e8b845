"""The plan of one training: everything that a training worker needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.data.windows import ImageSource
from stages.networks.spec import NetworkSpec
from stages.settings import AugmentSettings, Role, TrainSettings
from stages.training.schedule import Weights
from stages.training_settings import HardSettings
from storage_schemas.paths.path import File, Folder, StorePath

__all__ = ["EpochPlan", "TrainingPlan"]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """What one epoch reads: a view, and the targets of each teacher whose weight is above zero."""

    view: int
    weights: Weights
    views: Folder | None = None
    """The stored view; None to draw the crops while training, which only trainings without teachers can do."""
    primary: Folder | None = None
    senior: Folder | None = None

    def targets(self) -> dict[Role, Folder]:
        """The folder of targets of each teacher whose weight is above zero."""
        folders: dict[Role, Folder | None] = {"primary": self.primary, "senior": self.senior}
        return {role: folder for role, folder in folders.items() if folder and self.weights.of(role)}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One training. It is pickled and sent to each worker, so it names files instead of holding data."""

    stage: str
    name: str
    """Such as ``student`` or ``primary teacher``; with the stage it is the training's title in logs and errors."""
    network: NetworkSpec
    instances: File
    images: ImageSource
    folder: StorePath
    """The folder for checkpoints, curve and final weights."""
    crop_wh: tuple[int, int]
    size_divisor: int
    epochs: Sequence[EpochPlan]
    train: TrainSettings
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    seed: int
    views_seed: int
    augment: AugmentSettings
    holdout_fraction: float = 0.0
    """Do not train on this share of the images (``stages.data.holdout``)."""
    only_masked: bool = False
    """Train only on instances that have a mask."""
    only_labelled: bool = True
    """Train only on instances that have labels; without teachers the others teach nothing."""
    labelled_fraction: float = 1.0
    """Use the labels of this share of the people only (``stages.training.rows``)."""
    labelled_share: float | None = None
    """The share of labelled instances in each batch; None for that of the data."""
    feed_mask: bool = False
    mask_drop: float = 0.0
    """The probability that an instance's mask is withheld from the network."""
    binarize_labels: bool = False
    """Whether the Gaussians of the labels become bits."""
    weight_by_peak: bool = False
    """Whether a joint of a teacher weighs as much as the peak of its heatmap."""
    hard: HardSettings | None = None
    """How much harder the network's crops are than those of the teachers."""
    validate_every: int = 0
    """Score the network on the held-out people every so many epochs, and after the last one; 0: never."""
    keep_best: bool = False
    """Whether the result are the weights with the best of these scores, and not the last ones."""
    adapter_lr: float | None = None
    """The learning rate of parameters named ``adapter.*``; None for ``train.lr``."""
    events: StorePath | None = None
    """The folder for TensorBoard events."""

    @property
    def title(self) -> str:
        """The training's name in logs and errors."""
        return f"{self.stage}: {self.name}"

    @property
    def input_wh(self) -> tuple[int, int]:
        """Size (w, h) of the network's input."""
        return self.crop_wh[0] // self.size_divisor, self.crop_wh[1] // self.size_divisor
