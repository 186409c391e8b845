"""Repair of views and targets: recompute damaged shards; and a sample: rerun the teacher on some rows and compare."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stages.base import Context, Device, Step, TargetsStep, ViewStep, resolve_precision
from stages.data.loader import CropLoader, batches_ahead
from stages.data.views import Views
from stages.distributed.run_tasks import run_tasks, task_options
from stages.inference import load_predictor
from stages.pose.binarize import binarize
from stages.prepare.stage import INSTANCES, image_source_of, images_of, instances_step, skeleton_of
from stages.progress import progress
from stages.targets.block_task import BlockOutput, BlockTeacher, BlockView, run_block
from stages.targets.stage import CachedStep, array_specs, block_job, view_step
from stages.teachers import network_spec, teacher_step
from storage_schemas.errors import CorruptEntryError, MissingInputError, OdkdError, Remedy, StoreError
from storage_schemas.formats.instances import read_instances
from storage_schemas.formats.targets import block_files, create_arrays, metadata_files, read_rows, rows_per_block, unpack_bits
from storage_schemas.paths.path import StorePath
from storage_schemas.store.lease import Lease, LeaseWatch, lease_of
from storage_schemas.store.store import Entry

__all__ = ["Sample", "fetch", "repair", "sample"]

log = logging.getLogger(__name__)

_SCRATCH = "repair-"


def repair(context: Context, step: CachedStep, damaged: Sequence[str], *, connect: Callable[[], None]) -> None:
    """Recompute the blocks of the entry of ``step`` that hold ``damaged`` files, and restore those files.

    A file is restored only if its bytes equal those in the manifest, so the entry's content never changes. ``connect`` is
    called after all checks and before any work.

    Raises:
        StoreError: the entry is in the upstream home, which is read-only.
        ClusterError: raised by ``connect``.
        CorruptEntryError: the recomputed files differ, as on another kind of device; or an input is damaged.
        MissingInputError: the entry was deleted from the store during the repair.
    """
    entry = context.need(step)
    if entry.is_borrowed:
        raise StoreError(
            f"{entry.entry_id} is in the upstream home, {context.upstream}, which is read-only",
            allowed="entries of the own home",
            remedy=entry.remake(),
        )
    for source in _inputs(context, step):
        context.check(source)
    connect()
    with _scratch(entry) as folder:
        _compute(context, step, entry, damaged, folder)
        restored = _put_back(entry, folder, damaged)
    lost = [name for name in damaged if name not in restored]
    if lost:
        rest = len(damaged) - len(lost)
        raise CorruptEntryError(
            f"{step.entry_id}: computed again on {context.device}, {_named(lost)} not what was lost, "
            f"which was made on {_place(entry)}" + (f"; {rest} of {len(damaged)} damaged files were restored" if rest else ""),
            allowed="the same kind of device and the same versions of the libraries, which compute the same bits; "
            "or another entry in its place: to drop this one says how that is made",
            remedy=Remedy("drop", entry_id=step.entry_id, home=str(context.home), used=True),
        )


def fetch(entry: Entry, twin: Entry, damaged: Sequence[str]) -> list[str]:
    """Replace ``damaged`` files by copies from ``twin``, the same entry in another store.

    Returns:
        The names of the files that are restored; a file of the twin can be damaged too.

    Raises:
        MissingInputError: the entry was deleted from the store during the copy.
    """
    with _scratch(entry) as folder:
        copied = [name for name in damaged if _copied(twin, name, folder.mirror() / name)]
        folder.share(copied)
        return _put_back(entry, folder, copied)


def _copied(twin: Entry, name: str, target: Path) -> bool:
    try:
        source = twin.path(name)
        # A file that cannot be read is skipped; a copy that cannot be written is an error.
        source.open("rb").close()
    except (OSError, CorruptEntryError) as error:
        log.warning("%s of %s cannot be read: %s", name, twin.folder, error)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return True


def _put_back(entry: Entry, folder: StorePath, names: Sequence[str]) -> list[str]:
    """Move the files ``names`` from ``folder`` into the entry where they match its manifest, and return their names."""
    if not entry.is_in_store():
        # The entry was deleted, and creating the scratch folder has recreated its folder.
        raise FileNotFoundError(entry.folder)
    restored = [name for name in names if entry.put_back(name, folder / name)]
    if len(restored) < len(names) and not entry.is_in_store():
        # The entry was deleted, and the made files with it.
        raise FileNotFoundError(entry.folder)
    return restored


def _named(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more files are"


def _place(entry: Entry) -> str:
    made = entry.manifest.made
    return ", ".join(str(made[name]) for name in ("device", "host") if name in made)


@contextmanager
def _scratch(entry: Entry) -> Iterator[StorePath]:
    """A temporary folder in the entry's folder: beside it, other runs would take it for a writer's draft and adopt its parts.

    Raises:
        MissingInputError: the entry was deleted meanwhile.
    """
    try:
        with _folder_in(entry) as folder:
            yield folder
    except Exception as error:
        # Once the entry is deleted, any later error only follows from that.
        if isinstance(error, OdkdError) or entry.is_in_store():
            raise
        raise MissingInputError(
            f"The entry {entry.entry_id} was deleted from the store", remedy=Remedy("run", kind=entry.manifest.kind)
        ) from error


@contextmanager
def _folder_in(entry: Entry) -> Iterator[StorePath]:
    if entry.is_in_store():
        # All files of the entry can be lost, and the folder with them.
        entry.folder.make_folders()
    for other in entry.folder.children()[0]:
        # Delete the folders of killed repairs, which hold no lease.
        if other.name.startswith(_SCRATCH) and LeaseWatch(lease_of(other)).is_gone():
            other.remove_tree()
            lease_of(other).unlink(missing_ok=True)
    folder = entry.folder / f"{_SCRATCH}{uuid.uuid4().hex[:8]}"
    with Lease(lease_of(folder)):
        folder.make_folder()
        try:
            yield folder
        finally:
            folder.remove_tree()


def _compute(context: Context, step: CachedStep, entry: Entry, damaged: Sequence[str], folder: StorePath) -> None:
    """Write the blocks that hold damaged files, and the metadata of the arrays, to ``folder``."""
    split, num = step.split, int(entry.measured["rows"])
    table = context.need(instances_step(context, split))
    specs = array_specs(context, step)
    create_arrays(folder.mirror(), specs, num)
    folder.share(metadata_files(specs))
    blocks = [
        block for block in range(-(-num // rows_per_block(num))) if not set(block_files(specs, block)).isdisjoint(damaged)
    ]
    view = _block_view(context, step, folder)
    jobs = [block_job(context, split, table.file(INSTANCES), num, block, (view,), score=False) for block in blocks]
    if isinstance(step, TargetsStep):
        # The batch size is not in the key, but a bit near the threshold can depend on it.
        jobs = [replace(job, batch_size=_batch_size(context, step)) for job in jobs]
    options = task_options(context, images_of(context, step.split), network=True)
    sized = [(job, job.stop - job.start) for job in jobs]
    for _ in run_tasks(run_block, sized, options=options, title=f"repair: {step.title}", unit="crops"):
        pass


def _inputs(context: Context, step: CachedStep) -> list[Entry]:
    """The entries that views or targets were made from, in the order in which they can be repaired."""
    split = step.split
    table = context.need(instances_step(context, split))
    if isinstance(step, ViewStep):
        return [table]
    teacher = context.need(teacher_step(context, step.role))
    return [table, teacher, context.need(view_step(context, split, step.view))]


def _block_view(context: Context, step: CachedStep, folder: StorePath) -> BlockView:
    number = step.view
    if isinstance(step, ViewStep):
        return BlockView(view=number, stored=None, draft=folder, teachers=())
    crops = context.need(view_step(context, step.split, number))
    return BlockView(view=number, stored=crops.whole(), draft=None, teachers=(_teacher(context, step, folder),))


def _teacher(context: Context, step: TargetsStep, folder: StorePath) -> BlockTeacher:
    role = step.role
    teacher = context.need(teacher_step(context, role))
    return BlockTeacher(role=role, spec=network_spec(teacher), outputs=(BlockOutput(rule=step.rule, folder=folder),))


@dataclass(frozen=True)
class Sample:
    """Counts of a comparison between cached bits and those that the teacher gives now."""

    rows: int
    bits: int
    """All compared pixels."""
    differing: int
    set_bits: int
    """Cached pixels that are 1; most pixels are 0."""
    maps: int
    differing_maps: int
    """Maps in which at least one bit differs."""


def sample(context: Context, step: Step, *, rows: int, seed: int = 0) -> Sample:
    """Rerun the teacher of ``step`` on ``rows`` random instances in this process, and compare with the cached bits.

    Raises:
        CorruptEntryError: files are damaged.
        StoreError: the entry is not of kind 'targets'.
    """
    if not isinstance(step, TargetsStep):
        raise StoreError(
            f"{step.entry_id} holds no bits of a teacher",
            allowed="entries of kind 'targets'",
            remedy=Remedy("list", kind="targets", home=str(context.home)),
        )
    entry, crops = context.need(step), context.need(view_step(context, step.split, step.view))
    for source in (*_inputs(context, step), entry):
        context.check(source)
    num = int(entry.measured["rows"])
    chosen_B = np.sort(np.random.default_rng(seed).choice(num, min(rows, num), replace=False))
    width, height = context.heatmap_wh
    num_keypoints = skeleton_of(context, step.split).num_keypoints
    cached = unpack_bits(_rows(entry, "bits", chosen_B).astype(np.uint8), (num_keypoints, height, width))
    fresh = _bits_again(context, step, crops, chosen_B)
    differs = cached != fresh
    return Sample(
        rows=len(chosen_B),
        bits=differs.size,
        differing=int(differs.sum()),
        set_bits=int(cached.sum()),
        maps=len(chosen_B) * num_keypoints,
        differing_maps=int(differs.any(axis=(2, 3)).sum()),
    )


def _bits_again(context: Context, step: TargetsStep, crops: Entry, chosen_B: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The bits [B, K, H, W] that the teacher gives now for the chosen rows, in batches of the entry's own batch size."""
    split, rule, size_wh = step.split, step.rule, context.settings.crop.size_wh
    instances = read_instances(context.need(instances_step(context, split)).path(INSTANCES)).select(chosen_B)
    affine_B23 = _rows(crops, "affine", chosen_B).astype(np.float32)
    views = Views(affine_B23, _rows(crops, "flip", chosen_B).astype(np.bool_))
    # The driver's machine can lack the GPUs that the workers have.
    device: Device = "cuda" if context.device == "cuda" and torch.cuda.is_available() else "cpu"
    spec = _teacher(context, step, crops.folder).spec
    threads = torch.get_num_threads()
    precision = resolve_precision(context.settings.targets.precision, context.device)
    predictor = load_predictor(spec, instances.skeleton, size_wh, device, precision, threads)
    loader = CropLoader(
        instances, image_source_of(context, split), size_wh=size_wh, threads=threads, ahead=batches_ahead(device)
    )
    found = []
    try:
        batches = np.split(
            np.arange(len(chosen_B)), range(_batch_size(context, step), len(chosen_B), _batch_size(context, step))
        )
        with progress(f"verify: {step.title}", total=len(chosen_B), unit="instances") as bar:
            for (batch,) in loader.batches(batches, [views], with_mask=spec.senior):
                heat_BKHW = predictor.heatmaps(batch)
                bits, _, _ = binarize(
                    heat_BKHW, mode=rule.mode, threshold=rule.threshold, min_peak=rule.min_peak, keep=rule.keep
                )
                found.append(bits.cpu().numpy())
                bar.advance(len(batch.rows_B))
    finally:
        loader.close()
    return np.concatenate(found)


def _batch_size(context: Context, step: CachedStep) -> int:
    return int(context.need(step).manifest.made["batch_size"])


def _rows(entry: Entry, name: str, chosen_B: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
    """The chosen rows of an array, read one by one, since an array can have millions of rows."""
    return np.concatenate([read_rows(entry.fetch(), name, row, row + 1) for row in chosen_B.tolist()])
