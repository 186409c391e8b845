"""The parts of the cache's benchmark and how much each measures: in full, or so little that it only shows that it works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from storage_schemas.formats.targets import rows_per_block

__all__ = ["FULL", "FULL_ON_GPU", "PARTS", "QUICK", "PartName", "Scale"]

PartName = Literal["sizes", "reading", "steps", "filling", "crops", "store"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of repetitions; those that are the same for every run stand beside their part."""

    threads: int
    """Of networks; 0 means as many as cores."""
    images: int
    """Drawn pictures, with two people each or so."""
    crop_wh: tuple[int, int]
    student: str
    teachers: tuple[str, str]
    """The networks of the primary and of the senior."""
    rows: int
    """People in the cached view that is weighed, read and taught from."""
    dense_rows: int
    """Those of whom dense heatmaps are kept, which take 104 KB each."""
    read_rounds: int
    train_batch: int
    group_steps: int
    """Steps between two synchronisations with the device."""
    cached_rounds: int
    online_rounds: int
    filled_rows: int
    """People of the data set whose first block is filled: it says how large a block is."""
    fill_batch: int
    fill_rounds: int
    cropped: int
    """People whose crops one round reads, at most."""
    crop_rounds: int
    verified_rows: int
    listed: int

    @property
    def fill_people(self) -> int:
        """People of the block that is filled."""
        return min(self.filled_rows, rows_per_block(self.filled_rows))


FULL = Scale(
    threads=0,
    images=160,
    crop_wh=(192, 256),
    student="hrnet_w16",
    teachers=("hrnet_w32", "hrnet_w48"),
    rows=16_384,
    dense_rows=2_048,
    read_rounds=60,
    train_batch=16,
    group_steps=2,
    cached_rounds=40,
    online_rounds=20,
    # A block of 256, the smallest that there is.
    filled_rows=16_384,
    fill_batch=32,
    fill_rounds=24,
    cropped=512,
    crop_rounds=15,
    verified_rows=1_000_000,
    listed=1_000,
)

FULL_ON_GPU = replace(
    FULL,
    # HRNet's batch: of a smaller one a GPU's step is mostly waiting.
    train_batch=128,
    group_steps=8,
    # The people of COCO train2017, and so a block of 2,368.
    filled_rows=149_813,
)

QUICK = Scale(
    threads=1,
    images=6,
    crop_wh=(64, 64),
    student="hrnet_w8_small",
    teachers=("hrnet_w8_small", "hrnet_w8_small"),
    rows=300,
    dense_rows=64,
    read_rounds=3,
    train_batch=4,
    group_steps=2,
    cached_rounds=3,
    online_rounds=2,
    filled_rows=8,
    fill_batch=4,
    fill_rounds=2,
    cropped=8,
    crop_rounds=2,
    verified_rows=2_000,
    listed=20,
)
