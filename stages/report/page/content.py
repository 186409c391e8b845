"""What a report says, as plain values: the page is made from these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

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
    "Person",
    "Phase",
    "Scored",
    "SplitRow",
    "TargetRow",
    "Tile",
    "Who",
]

Who = Literal["primary", "senior", "student", "baseline", "other"]
"""Whose colour a row, a bar or a curve has."""

AP_COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR")


@dataclass(frozen=True)
class Cost:
    """What a network costs for one image of (w, h) ``input_wh``; ``params`` and ``macs`` are 0 where they are not known."""

    params: int
    macs: int
    latency_ms: float
    input_wh: tuple[int, int]


@dataclass(frozen=True)
class Scored:
    """A row of the AP table; ``scores`` has the ``AP_COLUMNS``, with -1 where nobody is of that size."""

    who: Who
    name: str
    scores: Mapping[str, float]
    decoder: str
    headline: bool = False
    """Whether the row is one of those at the top of the page."""
    cost: Cost | None = None


@dataclass(frozen=True)
class DecoderRow:
    """The AP of one network by each decoder."""

    who: Who
    name: str
    ap: Mapping[str, float]


@dataclass(frozen=True)
class TargetRow:
    """What one teacher's cached bits say, beside the float maps that they came from; AP, no flip test."""

    who: Who
    name: str
    ap_from_bits: float
    ap_float_quarter: float
    ap_float_dark: float


@dataclass(frozen=True)
class Difference:
    """AP of ``name_b`` less AP of ``name_a``; ``who`` is whose colour the difference has, that of b."""

    who: Who
    name_a: str
    name_b: str
    bootstrap: PairedBootstrap
    headline: bool = True
    """Whether it is told at the top of the page."""


@dataclass(frozen=True)
class Phase:
    """Epochs ``first`` to ``last`` (from 1, both included) of the schedule, and what teaches in them."""

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
    """A picture [h, w, 3] RGB and what it shows."""

    caption: str
    picture_hw3: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Person:
    """One person of the validation set, seen in several ways."""

    heading: str
    detail: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class JointRow:
    """Of the ``labelled`` joints of one name, the share within OKS .5, by the name of the network."""

    name: str
    labelled: int
    share: Mapping[str, float]


@dataclass(frozen=True)
class CacheRow:
    """The cached targets of one teacher on the training set, and how often the teacher was run."""

    who: Who
    name: str
    views: int
    people: int
    total_bytes: int
    bytes_per_view: int
    bytes_per_person: float
    """Of one person in one view."""
    dense_bytes_per_person: int
    """The same as float16 heatmaps, computed and not measured."""
    seen: float
    """Share of joints whose peak reaches ``min_peak``."""
    forwards_cached: int
    """Crops that the cached targets hold, each of which took one forward pass of the teacher."""
    forwards_now: int
    """Forward passes in the run that wrote the page."""


@dataclass(frozen=True)
class EntryRow:
    """One entry of the store; ``entry_id`` is where it was made."""

    title: str
    kind: str
    key: str
    size: int
    made_at: str
    seconds: float
    entry_id: str


@dataclass(frozen=True)
class SplitRow:
    """One half of the data set: how many there are, and how many were left out, by reason."""

    name: str
    people: int
    images: int
    with_mask: int
    held_out: int
    quarantined: Mapping[str, int]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    name: str
    made_at: str
    protocol: str
    decoder_reason: str
    machine: str
    """Where latency was measured."""
    rows: Sequence[Scored]
    decoders: Sequence[DecoderRow]
    targets: Sequence[TargetRow]
    differences: Sequence[Difference]
    phases: Sequence[Phase]
    curves: Sequence[Curve]
    teacher_curves: Sequence[Curve]
    overlays: Sequence[Person]
    worst: Sequence[Person]
    joints: Sequence[JointRow]
    joint_series: Mapping[str, Who]
    """The networks of ``joints``, in order, with their colours."""
    cache: Sequence[CacheRow]
    views_bytes: int
    """Of the stored crops and masks of the training set, which both teachers' targets share."""
    splits: Sequence[SplitRow]
    entries: Sequence[EntryRow]
    settings_yaml: str
    versions: Mapping[str, str]
    command: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each stage took in the run that wrote the page."""
