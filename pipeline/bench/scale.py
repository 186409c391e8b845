"""The parts of the cache's benchmark and how much each measures: in full, or so little that it only shows that it works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

__all__ = ["FULL", "FULL_ON_GPU", "PARTS", "QUICK", "PartName", "Scale"]

PartName = Literal["sizes", "reading", "steps", "filling", "store"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of repetitions."""

    threads: int
    """Of networks; 0 means as many as cores."""
    images: int
    """Drawn pictures, with two people each or so: at least as many people as are filled in."""
    crop_wh: tuple[int, int]
    student: str
    teachers: tuple[str, str]
    """The networks of the primary and of the senior."""
    rows: int
    """People in the cached view that is weighed and read."""
    dense_rows: int
    """Those of whom dense heatmaps are kept, which take 104 KB each."""
    read_batch: int
    read_batches: int
    """Batches in one repetition."""
    read_rounds: int
    decode_rounds: int
    train_batch: int
    cached_rounds: int
    online_rounds: int
    fill_people: int
    fill_batch: int
    fill_rounds: int
    verified_rows: int
    verify_rounds: int
    listed: int
    list_rounds: int


FULL = Scale(
    threads=0,
    images=160,
    crop_wh=(192, 256),
    student="hrnet_w16",
    teachers=("hrnet_w32", "hrnet_w48"),
    rows=16_384,
    dense_rows=2_048,
    read_batch=64,
    read_batches=4,
    read_rounds=60,
    decode_rounds=9,
    train_batch=16,
    cached_rounds=60,
    online_rounds=30,
    # A block of targets, which is what one task fills, is 256 people at least (storage_schemas.targets.rows_per_block).
    fill_people=256,
    fill_batch=32,
    fill_rounds=12,
    verified_rows=1_000_000,
    verify_rounds=5,
    listed=1_000,
    list_rounds=9,
)

FULL_ON_GPU = replace(FULL, train_batch=128)
"""HRNet's batch: of a smaller one a GPU's step is mostly waiting."""

QUICK = Scale(
    threads=1,
    images=6,
    crop_wh=(64, 64),
    student="hrnet_w8_small",
    teachers=("hrnet_w8_small", "hrnet_w8_small"),
    rows=300,
    dense_rows=64,
    read_batch=16,
    read_batches=1,
    read_rounds=3,
    decode_rounds=2,
    train_batch=4,
    cached_rounds=3,
    online_rounds=2,
    fill_people=8,
    fill_batch=4,
    fill_rounds=2,
    verified_rows=2_000,
    verify_rounds=2,
    listed=20,
    list_rounds=2,
)
