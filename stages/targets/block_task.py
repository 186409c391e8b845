"""One task of stage targets: crop a block of instances, run the teachers, binarize their heatmaps and write the block.

A task decodes each image once for all its views. It holds the block's rows in memory until the block is complete.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stages.base import Device
from stages.data.crops import heatmap_mask
from stages.data.loader import Batch, CropLoader, batches_ahead
from stages.data.views import Views, draw_views
from stages.data.windows import ImageSource
from stages.distributed.run_tasks import worker_threads
from stages.inference import decode_to_image, load_predictor
from stages.networks.spec import NetworkSpec
from stages.pose.affine import heatmap_size
from stages.pose.binarize import binarize
from stages.pose.skeleton import Skeleton
from stages.settings import AugmentSettings, BinarizeSettings, Role
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.formats.targets import (
    ArraySpec,
    block_files,
    create_arrays,
    pack_bits,
    read_rows,
    view_arrays,
    write_block,
)
from storage_schemas.paths.path import File, Folder, StorePath
from storage_schemas.store.parts import MARKER, finish_part, finished_parts

__all__ = ["FLOAT_DECODERS", "BlockJob", "BlockOutput", "BlockTeacher", "BlockView", "fill_block", "part_name", "run_block"]

FLOAT_DECODERS: tuple[Literal["quarter", "dark"], ...] = ("quarter", "dark")


@dataclass(frozen=True, kw_only=True)
class BlockOutput:
    """A binarization rule, and the folder for the bits that it gives."""

    rule: BinarizeSettings
    folder: StorePath


@dataclass(frozen=True, kw_only=True)
class BlockTeacher:
    """A teacher in a task."""

    role: Role
    spec: NetworkSpec
    outputs: tuple[BlockOutput, ...]


@dataclass(frozen=True, kw_only=True)
class BlockView:
    """A view in a task, and the teachers that run on it."""

    view: int
    stored: Folder | None
    """The folder of crops to read; None to draw them."""
    draft: StorePath | None
    """The folder to write the crops to; None if they are stored already."""
    teachers: tuple[BlockTeacher, ...]


@dataclass(frozen=True, kw_only=True)
class BlockJob:
    """One task: a block of instances, and the views and teachers to run on it."""

    block: int
    start: int
    stop: int
    num: int
    """Instances in the whole table."""
    instances: File
    images: ImageSource
    views: tuple[BlockView, ...]
    size_wh: tuple[int, int]
    seed: int
    augment: AugmentSettings
    device: Device
    precision: Literal["float32", "bfloat16"]
    batch_size: int
    score: bool
    """Also decode the float maps, so that their AP can be compared with that of the bits."""


def part_name(block: int) -> str:
    """The name of a finished block among the parts of a draft."""
    return f"block-{block:05d}"


def run_block(job: BlockJob) -> dict[str, int]:
    """``fill_block`` with the threads of this Ray worker."""
    return fill_block(job, threads=worker_threads())


def fill_block(job: BlockJob, *, threads: int) -> dict[str, int]:
    """Write the job's block of every array, and return the number of crops that each teacher ran on, by role."""
    instances = read_instances(job.instances.fetch()).select(np.arange(job.start, job.stop))
    crops = [_crops(job, view, instances) for view in job.views]
    collected = _Collected(job, instances.skeleton, crops, threads)
    # Masks are needed only to store them, or as input of a senior.
    with_mask = any(view.draft or any(teacher.spec.senior for teacher in view.teachers) for view in job.views)
    loader = CropLoader(instances, job.images, size_wh=job.size_wh, threads=threads, ahead=batches_ahead(job.device))
    num = len(instances.id_N)
    rows = (np.arange(start, min(start + job.batch_size, num)) for start in range(0, num, job.batch_size))
    try:
        for batches in loader.batches(rows, crops, with_mask=with_mask):
            for index, batch in enumerate(batches):
                collected.add(index, batch)
    finally:
        loader.close()
    collected.write()
    return dict(collected.forwards)


def _crops(job: BlockJob, view: BlockView, instances: Instances) -> Views:
    if view.stored is None:
        return draw_views(instances, view.view, seed=job.seed, augment=job.augment, size_wh=job.size_wh)
    folder = view.stored.fetch()
    # A part that was fetched to this node has only rows: create the arrays' metadata.
    create_arrays(folder, view_arrays(heatmap_size(job.size_wh)), job.num)
    affine = read_rows(folder, "affine", job.start, job.stop).astype(np.float32)
    return Views(affine, read_rows(folder, "flip", job.start, job.stop).astype(np.bool_))


class _Collected:
    """Collects the rows of a block from the teachers until the block is complete, and writes it."""

    def __init__(self, job: BlockJob, skeleton: Skeleton, crops: Sequence[Views], threads: int) -> None:
        self._job, self._skeleton, self._crops, self._threads = job, skeleton, crops, threads
        self._rows: dict[StorePath, dict[str, list[npt.NDArray[Any]]]] = defaultdict(lambda: defaultdict(list))
        self.forwards: dict[str, int] = defaultdict(int)
        self._notes: dict[StorePath, Counter[str]] = defaultdict(Counter)

    def add(self, index: int, batch: Batch) -> None:
        """Add a batch of one view: its crops and masks (at heatmap size), and each teacher's bits."""
        job, view = self._job, self._job.views[index]
        if view.draft is not None:
            masks = np.stack([heatmap_mask(mask) for mask in batch.mask_Bhw])
            self._keep(view.draft, affine=self._crops[index].affine_N23[batch.rows_B])
            self._keep(view.draft, flip=self._crops[index].flip_N[batch.rows_B])
            self._keep(view.draft, mask=pack_bits(masks), has_mask=batch.has_mask_B)
        for teacher in view.teachers:
            predictor = load_predictor(teacher.spec, self._skeleton, job.size_wh, job.device, job.precision, self._threads)
            heat_BKHW = predictor.heatmaps(batch)
            self.forwards[teacher.role] += len(batch.rows_B)
            for output in teacher.outputs:
                self._binarize(heat_BKHW, output)
                if job.score:
                    self._decode(heat_BKHW, output.folder, self._crops[index].affine_N23[batch.rows_B])

    def _binarize(self, heat_BKHW: Tensor, output: BlockOutput) -> None:
        rule, folder = output.rule, output.folder
        bits, peak, bad = binarize(heat_BKHW, mode=rule.mode, threshold=rule.threshold, min_peak=rule.min_peak, keep=rule.keep)
        self._keep(folder, bits=pack_bits(bits.cpu().numpy()), peak=peak.cpu().numpy().astype(np.float16))
        not_finite_M = ~heat_BKHW[bad].isfinite().all(dim=(-2, -1))
        self._notes[folder].update(bad=int(bad.sum()), not_finite=int(not_finite_M.sum()))

    def _decode(self, heat_BKHW: Tensor, folder: StorePath, affine_B23: npt.NDArray[np.float32]) -> None:
        """Decode the float maps too: their AP is what the AP of the bits is compared with."""
        for decoder in FLOAT_DECODERS:
            self._keep(folder, **{decoder: decode_to_image(heat_BKHW, affine_B23, decoder=decoder)})

    def _keep(self, folder: StorePath, **arrays: npt.NDArray[Any]) -> None:
        for name, rows in arrays.items():
            self._rows[folder][name].append(rows)

    def write(self) -> None:
        """Write the block of every array, read it back to compare, and mark the block as finished.

        A copy of this task on another node may have finished the block: its files stay, since other bits from another device
        would differ from what its marker says.
        """
        block = self._job.block
        for folder, arrays in self._rows.items():
            if (folder / f"{part_name(block)}{MARKER}").exists() and finished_parts(folder, part_name(block)):
                continue
            whole = {name: np.concatenate(rows) for name, rows in arrays.items()}
            scores = {name: whole.pop(name) for name in FLOAT_DECODERS if name in whole}
            specs = tuple(ArraySpec(name, rows.shape[1:], rows.dtype.name) for name, rows in whole.items())
            work = folder.mirror()
            create_arrays(work, specs, self._job.num)
            write_block(work, block, whole)
            for name, rows in whole.items():
                stored = read_rows(work, name, self._job.start, self._job.stop)
                assert np.array_equal(stored, rows, equal_nan=rows.dtype.kind == "f"), f"{name} reads differently than written"
            files = block_files(specs, block)
            if scores:
                files.append(f"{part_name(block)}.npz")
                stream = io.BytesIO()
                np.savez(stream, quarter=scores["quarter"], dark=scores["dark"])
                # A copy of this task can be interrupted at any time, and the other may have written the file before.
                (work / files[-1]).write_atomic(stream.getvalue())
            finish_part(folder, part_name(block), files, notes=self._notes[folder])
