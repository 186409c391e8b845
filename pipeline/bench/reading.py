"""Part reading: random batches of cached targets, read and unpacked on one core, in our layout and in others.

Shape letters: N instances, B of one batch, K joints, H W heatmap pixels, P packed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor
from zarr.storage import LocalStore

from pipeline.bench.drawn import heatmaps
from pipeline.bench.entries import CachedView, Data
from pipeline.bench.records import (
    CAVEAT,
    COMPRESSED,
    DENSE,
    PICKLES,
    RECORDS,
    as_records,
    read_compressed,
    read_pickles,
    read_records,
    read_view_targets,
    write_compressed,
    write_dense,
    write_pickles,
)
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.scale import Scale
from pipeline.bench.timing import Subject, interleaved, one_core, ratio
from stages.pose.affine import heatmap_size
from stages.training.loss import unpack_bits
from stages.training.memory_map import MappedArray

__all__ = ["measure_reading"]

_OURS = "ours: a map, read and unpacked"
_ASK = Ask("value", least=50_000)
_BATCH = 64
_BATCHES = 4
"""Batches in one round."""
_DECODE_ROUNDS = 9

Rows = npt.NDArray[np.int64]
Reader = Callable[[Rows], Tensor]
"""From row numbers to maps [B, K, H, W], as the loss takes them, or to packed bits."""


def measure_reading(data: Data) -> Part:
    """Instances per second, for each layout."""
    cached, scale = data.cached, data.scale
    width, height = scale.crop_wh
    num, read = len(cached.instances.id_N), _BATCH * _BATCHES
    with ExitStack() as stack:
        readers = _readers(stack, cached, data.folder, scale)
        batches = _batches(num, scale.read_rounds)
        stack.enter_context(one_core())
        seconds = interleaved(
            {name: _repetition(read, batches) for name, read in readers.items()}, rounds=scale.read_rounds, title="reading"
        )
    with one_core():
        made = {"map": lambda _: MappedArray(_folder(cached), "bits").close()}
        decoded = interleaved(made, rounds=_DECODE_ROUNDS, title="decoding an epoch")["map"]
    rows = [
        Row(
            name,
            read / float(np.median(seconds[name])),
            "instances/s",
            None if name == _OURS else ratio(seconds[_OURS], seconds[name]),
            _ASK if name == _OURS else None,
        )
        for name in readers
    ]
    rows.append(Row("ours: making the map of an epoch, once", num / float(np.median(decoded)), "instances/s"))
    return Part(
        "reading",
        f"random batches of {_BATCH} read and unpacked on one core, {height}x{width} crops",
        "ours",
        tuple(rows),
        (
            f"{num:,} drawn instances ({scale.dense_rows:,} as dense heatmaps, a chunk each); files are in the page cache",
            f"{scale.read_rounds} rounds of {_BATCHES} batches, the same instances for all; {_DECODE_ROUNDS} maps are made",
            "each but the map read alone gives maps as the loss takes them, uint8 or float16; none gives peaks, crop or flip",
            CAVEAT,
        ),
    )


def _folder(cached: CachedView) -> Path:
    return cached.targets["primary"].fetch()


def _batches(num: int, rounds: int) -> list[list[Rows]]:
    """The rows of the batches of each round; an instance is in a batch only once."""
    generator = np.random.default_rng(0)
    return [[generator.choice(num, _BATCH, replace=False) for _ in range(_BATCHES)] for _ in range(rounds)]


def _repetition(read: Reader, batches: Sequence[Sequence[Rows]]) -> Subject:
    def run(turn: int) -> None:
        for rows_B in batches[turn]:
            read(rows_B)

    return run


def _readers(stack: ExitStack, cached: CachedView, folder: Path, scale: Scale) -> dict[str, Reader]:
    """Write the files of each layout, and return its reader by name."""
    targets = read_view_targets(cached.view, cached.targets["primary"])
    num_keypoints = targets.peak_NK.shape[1]
    records_N, pickles = as_records(targets), folder / "pickles"
    write_pickles(pickles, targets)
    records_N.tofile(folder / "records")
    starts = write_compressed(folder / "compressed", records_N)

    def heat_of(start: int, stop: int) -> npt.NDArray[np.float32]:
        return heatmaps(cached.instances, cached.views, np.arange(start, stop), "primary", crop_wh=scale.crop_wh)

    dense = write_dense(folder / "dense", scale.dense_rows, heat_of)
    mapped = stack.enter_context(closing(MappedArray(_folder(cached), "bits"))).rows
    mapped_dense = stack.enter_context(closing(MappedArray(folder / "dense", DENSE))).rows
    records = stack.enter_context((folder / "records").open("rb", buffering=0))
    short_records = stack.enter_context((folder / "compressed").open("rb", buffering=0))
    plain = zarr.open_array(LocalStore(_folder(cached), read_only=True), path="bits", mode="r")

    def unpacked(bits_BP: npt.NDArray[np.uint8]) -> Tensor:
        return unpack_bits(torch.from_numpy(bits_BP), num_keypoints=num_keypoints, heatmap_wh=heatmap_size(scale.crop_wh))

    return {
        _OURS: lambda rows_B: unpacked(mapped[rows_B]),
        "ours: a map, read alone": lambda rows_B: torch.from_numpy(mapped[rows_B]),
        "dense float16 in a map": lambda rows_B: torch.from_numpy(mapped_dense[rows_B % scale.dense_rows]),
        RECORDS: lambda rows_B: unpacked(read_records(records, records_N.dtype, rows_B)),
        COMPRESSED: lambda rows_B: unpacked(read_compressed(short_records, starts, records_N.dtype, rows_B)),
        PICKLES: lambda rows_B: unpacked(read_pickles(pickles, rows_B)),
        "our entry by zarr-python": lambda rows_B: unpacked(_chosen(plain, rows_B)),
        # Row by row: zarr-python is slower with several rows of four dimensions.
        "dense float16 Zarr": lambda rows_B: torch.from_numpy(
            np.stack([np.asarray(dense[int(row)]) for row in rows_B % scale.dense_rows])
        ),
    }


def _chosen(array: zarr.Array[Any], rows_B: Rows) -> npt.NDArray[np.uint8]:
    """Some rows of a Zarr array, read in sorted order, which is faster."""
    order_B = np.argsort(rows_B)
    chosen_BP: npt.NDArray[np.uint8] = np.asarray(array.oindex[rows_B[order_B]])[np.argsort(order_B)]
    return chosen_BP
