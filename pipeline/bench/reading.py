"""Part reading: random batches of cached targets, read and unpacked on one core, as we keep them and as others do.

Shape letters: N people, B those of one batch, K joints, H W heatmap pixels, P packed bytes.
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
from pipeline.bench.entries import Cached, Data
from pipeline.bench.records import read_pickles, read_records, read_said, record_type, write_dense, write_pickles, write_records
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.scale import Scale
from pipeline.bench.timing import Subject, interleaved, one_core, ratio
from stages.data.mapped import MappedArray
from stages.learning.loss import unpack_bits

__all__ = ["measure_reading"]

_OURS = "ours: a map, read and unpacked"
_ASK = Ask("value", least=50_000)

Rows = npt.NDArray[np.int64]
Reader = Callable[[Rows], Tensor]
"""The float heatmaps [B, K, H, W] of the people in some rows (or their bits, where that is said)."""


def measure_reading(data: Data) -> Part:
    """People a second of each way to keep what a teacher said."""
    cached, scale = data.many, data.scale
    width, height = scale.crop_wh
    num, people = len(cached.instances.id_N), scale.read_batch * scale.read_batches
    with ExitStack() as stack:
        readers = _readers(stack, cached, data.folder, scale)
        batches = _batches(num, scale)
        stack.enter_context(one_core())
        seconds = interleaved(
            {name: _repetition(read, batches) for name, read in readers.items()}, rounds=scale.read_rounds, title="reading"
        )
    with one_core():
        made = {"map": lambda _: MappedArray(_folder(cached), "bits").close()}
        decoded = interleaved(made, rounds=scale.decode_rounds, title="decoding an epoch")["map"]
    rows = [
        Row(
            name,
            people / float(np.median(seconds[name])),
            "people/s",
            None if name == _OURS else ratio(seconds[_OURS], seconds[name]),
            _ASK if name == _OURS else None,
        )
        for name in readers
    ]
    rows.append(Row("ours: making the map of an epoch, once", num / float(np.median(decoded)), "people/s"))
    return Part(
        "reading",
        f"random batches of {scale.read_batch} read and unpacked on one core, {height}x{width} crops",
        "ours",
        tuple(rows),
        (
            f"{num:,} drawn people ({scale.dense_rows:,} as dense heatmaps, a chunk each); files are in the page cache",
            f"{scale.read_rounds} rounds of {scale.read_batches} batches, the same people for all",
        ),
    )


def _folder(cached: Cached) -> Path:
    return cached.targets["primary"].folder


def _batches(num: int, scale: Scale) -> list[list[Rows]]:
    """For each round the rows of its batches; no person twice in one batch."""
    rng = np.random.default_rng(0)
    return [
        [rng.choice(num, scale.read_batch, replace=False) for _ in range(scale.read_batches)] for _ in range(scale.read_rounds)
    ]


def _repetition(read: Reader, batches: Sequence[Sequence[Rows]]) -> Subject:
    def run(turn: int) -> None:
        for rows_B in batches[turn]:
            read(rows_B)

    return run


def _readers(stack: ExitStack, cached: Cached, folder: Path, scale: Scale) -> dict[str, Reader]:
    """Each way to read by its name; what it reads is written here."""
    width, height = scale.crop_wh
    said = read_said(cached.view, cached.targets["primary"])
    num_joints = said.peak_NK.shape[1]
    pickles, records = folder / "pickles", folder / "records.bin"
    write_pickles(pickles, said)
    write_records(records, said)

    def heat_of(start: int, stop: int) -> npt.NDArray[np.float32]:
        return heatmaps(cached.instances, cached.views, np.arange(start, stop), "primary", crop_wh=scale.crop_wh)

    dense = write_dense(folder / "dense", scale.dense_rows, heat_of)
    mapped = stack.enter_context(closing(MappedArray(_folder(cached), "bits"))).rows
    stream = stack.enter_context(records.open("rb", buffering=0))
    plain = zarr.open_array(LocalStore(_folder(cached), read_only=True), path="bits", mode="r")

    def unpacked(bits_BP: npt.NDArray[np.uint8]) -> Tensor:
        return unpack_bits(torch.from_numpy(bits_BP), num_joints=num_joints, heatmap_wh=(width // 4, height // 4))

    return {
        _OURS: lambda rows_B: unpacked(mapped[rows_B]),
        "ours: a map, read alone": lambda rows_B: torch.from_numpy(mapped[rows_B]),
        "records in one file, as TinyViT": lambda rows_B: unpacked(read_records(stream, record_type(said), rows_B)[0]),
        "a pickle a person, as FKD": lambda rows_B: unpacked(read_pickles(pickles, rows_B)[0]),
        "our entry by zarr-python": lambda rows_B: unpacked(_chosen(plain, rows_B)),
        # One by one: zarr-python is slower at several rows of four dimensions.
        "dense float16 Zarr": lambda rows_B: torch.from_numpy(
            np.stack([np.asarray(dense[int(row)]) for row in rows_B % scale.dense_rows])
        ).float(),
    }


def _chosen(array: zarr.Array[Any], rows_B: Rows) -> npt.NDArray[np.uint8]:
    """Some rows of a Zarr array, asked for in order, which is faster."""
    order_B = np.argsort(rows_B)
    chosen_BP: npt.NDArray[np.uint8] = np.asarray(array.oindex[rows_B[order_B]])[np.argsort(order_B)]
    return chosen_BP
