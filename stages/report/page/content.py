"""The content of a report as plain values; the page is rendered from these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from stages.findings import Finding
from stages.pose.skeleton import Skeleton
from stages.scoring.bootstrap import PairedBootstrap

__all__ = [
    "AP_COLUMNS",
    "CacheRow",
    "Cost",
    "Curve",
    "DecoderRow",
    "Difference",
    "EntryRow",
    "JointRow",
    "Page",
    "Phase",
    "Scored",
    "ShownInstance",
    "SplitRow",
    "TargetRow",
    "Tile",
    "Who",
]

Who = Literal["primary", "senior", "student", "baseline", "other"]
"""The network that gives a row, a bar or a curve its colour."""

AP_COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR")


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image of size ``input_wh``; ``params`` and ``macs`` are 0 if they are unknown."""

    params: int
    macs: int
    latency_ms: float
    input_wh: tuple[int, int]


@dataclass(frozen=True)
class Scored:
    """A row of the AP table; ``scores`` has the ``AP_COLUMNS``, with -1 if no instance has that size."""

    who: Who
    name: str
    scores: Mapping[str, float]
    decoder: str
    headline: bool = False
    """Whether the row has a card at the top of the page."""
    cost: Cost | None = None


@dataclass(frozen=True)
class DecoderRow:
    """The AP of one network by each decoder."""

    who: Who
    name: str
    ap: Mapping[str, float]


@dataclass(frozen=True)
class TargetRow:
    """AP of one teacher's cached bits, and of the float heatmaps that they were made from; without a flip test."""

    who: Who
    name: str
    ap_from_bits: float
    ap_float_quarter: float
    ap_float_dark: float


@dataclass(frozen=True)
class Difference:
    """AP of ``name_b`` minus AP of ``name_a``; ``who`` is the colour of b."""

    who: Who
    name_a: str
    name_b: str
    bootstrap: PairedBootstrap
    headline: bool = True
    """Whether a sentence at the top of the page states it."""


@dataclass(frozen=True)
class Phase:
    """A phase of the schedule: epochs ``first`` to ``last`` (counted from 1, both included), and who teaches in it."""

    first: int
    last: int
    label: str
    who: Who


@dataclass(frozen=True)
class Curve:
    """The mean ``loss`` of each of ``epochs`` (from 1)."""

    who: Who
    name: str
    epochs: Sequence[int]
    loss: Sequence[float]


@dataclass(frozen=True)
class Tile:
    """An RGB image [h, w, 3] with its caption."""

    caption: str
    image_hw3: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShownInstance:
    """One instance of the validation set, drawn in several ways."""

    heading: str
    detail: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class JointRow:
    """Of the ``labelled`` joints of one name, the share with a similarity of at least .5, by network."""

    name: str
    labelled: int
    share: Mapping[str, float]


@dataclass(frozen=True)
class CacheRow:
    """The cached targets of one teacher on the training set, and the number of its forward passes."""

    who: Who
    name: str
    views: int
    instances: int
    total_bytes: int
    bytes_per_view: int
    bytes_per_instance: float
    """Of one instance in one view."""
    dense_bytes_per_instance: int
    """The size of the same targets as float16 heatmaps; computed, not measured."""
    seen: float
    """Share of joints whose peak reaches ``min_peak``."""
    forwards_cached: int
    """The crops that the cached targets hold; each took one forward pass of the teacher."""
    forwards_now: int
    """Forward passes in the run that wrote the page."""


@dataclass(frozen=True)
class EntryRow:
    """One entry of the store."""

    title: str
    kind: str
    key: str
    size: int
    made_at: str
    seconds: float
    machine: str
    """The device and host that made it."""


@dataclass(frozen=True)
class SplitRow:
    """One split of the dataset: its counts, and the records that were left out, by reason."""

    name: str
    instances: int
    images: int
    with_mask: int
    held_out: int
    quarantined: Mapping[str, int]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Page:
    """The whole content of the page."""

    name: str
    made_at: str
    warnings: Sequence[Finding]
    protocol: str
    decoder_reason: str
    machine: str
    """The device that latency was measured on."""
    rows: Sequence[Scored]
    decoders: Sequence[DecoderRow]
    targets: Sequence[TargetRow]
    differences: Sequence[Difference]
    phases: Sequence[Phase]
    curves: Sequence[Curve]
    teacher_curves: Sequence[Curve]
    skeleton: Skeleton
    overlays: Sequence[ShownInstance]
    worst: Sequence[ShownInstance]
    joints: Sequence[JointRow]
    joint_series: Mapping[str, Who]
    """The networks of ``joints`` in order, with their colours."""
    cache: Sequence[CacheRow]
    views_bytes: int
    """Size of the crops and masks of the training set, which both teachers share."""
    splits: Sequence[SplitRow]
    entries: Sequence[EntryRow]
    settings_yaml: str
    versions: Mapping[str, str]
    command: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """The time of each stage in the run that wrote the page."""
