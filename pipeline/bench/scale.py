"""The parts of the cache benchmark, and their sizes: full ones, and small ones for a smoke run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from storage_schemas.formats.targets import rows_per_block

__all__ = ["FULL", "FULL_ON_GPU", "PARTS", "QUICK", "PartName", "Scale"]

PartName = Literal["sizes", "reading", "steps", "filling", "crops", "store"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of repetitions; constants that never change are in the modules of the parts."""

    threads: int
    """Threads of networks; 0 means one for each core."""
    images: int
    """Number of drawn images, with about two instances each."""
    crop_wh: tuple[int, int]
    student: str
    teachers: tuple[str, str]
    """The networks of the primary and of the senior."""
    rows: int
    """Instances in the cached view, which is measured, read and used for training."""
    dense_rows: int
    """Instances with dense heatmaps, 104 KB each."""
    read_rounds: int
    train_batch: int
    group_steps: int
    """Steps between two synchronisations with the device."""
    cached_rounds: int
    online_rounds: int
    filled_rows: int
    """Instances of the data set whose first block is filled; it determines the block size."""
    fill_batch: int
    fill_rounds: int
    cropped: int
    """Instances whose crops one round reads, at most."""
    crop_rounds: int
    verified_rows: int
    listed: int

    @property
    def fill_instances(self) -> int:
        """Instances of the block that is filled."""
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
    # This gives a block of 256, the smallest possible.
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
    # The batch size of HRNet's authors; with a smaller one a GPU mostly waits.
    train_batch=128,
    group_steps=8,
    # As many instances as COCO train2017 has, which gives a block of 2,368.
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
