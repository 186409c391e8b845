"""Stage targets: run each teacher once over every view that the schedule reads, and store its heatmaps as packed bits.

A task is a block of instances with a group of the missing views. It decodes each image once, draws the views, runs the
teachers, and writes its own shard of every array.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from stages.base import ROLES, Context, Step, TargetsStep, ViewStep, pending, resolve_precision
from stages.data.images import DECODER_VERSION
from stages.data.views import VIEWS_VERSION
from stages.distributed.run_tasks import run_tasks, task_options
from stages.findings import measured_findings
from stages.networks.spec import NetworkSpec
from stages.pose.decode import decode_bits, to_image
from stages.prepare.stage import INSTANCES, image_source_of, images_of, instances_step, skeleton_of
from stages.scoring.instance_scores import score_poses
from stages.scoring.network_scores import backend_of, read_ground_truth
from stages.scoring.protocol import Protocol
from stages.settings import BinarizeSettings, Role, Split
from stages.targets.block_task import FLOAT_DECODERS, BlockJob, BlockOutput, BlockTeacher, BlockView, part_name, run_block
from stages.targets.plausible import faint_findings, read_peaks, refuse_bad, refuse_if_faint, taught_share
from stages.teachers import network_spec, teacher_step
from stages.training.schedule import epoch_weights, view_of_epoch
from storage_schemas.formats.instances import read_instances
from storage_schemas.formats.targets import (
    ArraySpec,
    block_files,
    create_arrays,
    metadata_files,
    read_rows,
    rows_per_block,
    target_arrays,
    unpack_bits,
    view_arrays,
)
from storage_schemas.paths.path import File
from storage_schemas.store.store import Draft, Entry

__all__ = ["CachedStep", "array_specs", "block_job", "make", "refuse_found", "steps", "target_step", "view_step"]

log = logging.getLogger(__name__)

CachedStep = ViewStep | TargetsStep
Drafts = dict[str, tuple[CachedStep, Draft]]
"""Drafts that are being filled, with their steps, by key."""

_VERSION = 1
_VIEWS_TOGETHER = 8
"""The number of views that one task fills; it holds their bits in memory until it writes the block."""


def steps(context: Context) -> list[CachedStep]:
    """The views and targets that the schedule reads, and those of the validation set's plain view."""
    settings = context.settings
    weights = epoch_weights(settings.distill)
    reads: dict[int, set[Role]] = defaultdict(set)
    for epoch, weight in enumerate(weights):
        view = view_of_epoch(epoch, settings.views.count)
        reads[view] |= set(weight.roles())
    found: list[CachedStep] = []
    read_by_split: tuple[tuple[Split, dict[int, set[Role]]], ...] = (("val", {0: set(ROLES)}), ("train", reads))
    for split, views in read_by_split:
        for view, roles in sorted(views.items()):
            found.append(view_step(context, split, view))
            found += [
                target_step(context, role, split, view, rule)
                for role in ROLES
                if role in roles
                for rule in (settings.binarize, *settings.targets.extra_binarizations)
            ]
    return found


def view_step(context: Context, split: Split, view: int) -> ViewStep:
    """The crops of all instances in one view."""
    settings, table = context.settings, instances_step(context, split)
    drawn = {"seed": settings.views.seed, "augment": settings.views.augment.model_dump()} if view else None
    recipe = {
        "instances": context.content(table),
        "view": view,
        "views": drawn,
        "crop": {"size_wh": list(settings.crop.size_wh)},
        "version": VIEWS_VERSION,
    }
    return ViewStep(title=f"{split} view {view}", recipe=recipe, waits_for=context.waits(table), split=split, view=view)


def target_step(context: Context, role: Role, split: Split, view: int, rule: BinarizeSettings) -> TargetsStep:
    """One teacher's bits of all instances in one view."""
    crops, teacher = view_step(context, split, view), teacher_step(context, role)
    entry = context.find(teacher)
    suffix = Path(entry.measured.get("weights") or "").suffix if entry else ""
    recipe = {
        "view": crops.key if not crops.waits_for else pending(crops.key),
        "teacher": context.content(teacher),
        "mask": role == "senior",
        "binarize": rule.model_dump(),
        # onnxruntime computes in the precision of the file, which is float32.
        "precision": "float32" if suffix == ".onnx" else resolve_precision(context.settings.targets.precision, context.device),
        "backend": backend_of(suffix, context) if entry else pending(role),
        "decoder": DECODER_VERSION,
        "version": _VERSION,
    }
    return TargetsStep(
        title=f"targets of the {role} teacher, {split} view {view}",
        recipe=recipe,
        waits_for=(*crops.waits_for, *context.waits(teacher)),
        split=split,
        view=view,
        role=role,
        rule=rule,
    )


def make(context: Context, missing: Sequence[Step]) -> None:
    """Fill the missing entries of each split, except for the blocks that an earlier run finished."""
    for step in steps(context):
        if isinstance(step, TargetsStep):
            refuse_found(context, step)
    splits: tuple[Split, ...] = ("val", "train")
    for split in splits:
        ours = [step for step in missing if isinstance(step, ViewStep | TargetsStep) and step.split == split]
        for group in _groups(ours):
            _make_group(context, split, group)


def _groups(missing: Sequence[CachedStep]) -> Iterator[list[CachedStep]]:
    views = sorted({step.view for step in missing})
    for start in range(0, len(views), _VIEWS_TOGETHER):
        chosen = set(views[start : start + _VIEWS_TOGETHER])
        yield [step for step in missing if step.view in chosen]


def _make_group(context: Context, split: Split, group: Sequence[CachedStep]) -> None:
    table = context.need(instances_step(context, split)).file(INSTANCES)
    num = len(read_instances(table.fetch()).id_N)
    with ExitStack() as stack:
        drafts: Drafts = {}
        # All runs take drafts in the same order, so that two runs cannot wait for each other.
        for step in sorted(group, key=lambda item: (item.kind, item.key)):
            draft = stack.enter_context(context.store.draft(step.kind, step.recipe))
            if isinstance(draft, Draft):
                create_arrays(draft.work, array_specs(context, step), num)
                drafts[step.key] = (step, draft)
        _check_inputs(context, split, drafts)
        jobs = [job for job in _jobs(context, split, table, num, drafts) if job.views]
        sized = [(job, (job.stop - job.start) * len(job.views)) for job in jobs]
        options = task_options(context, images_of(context, split), network=True)
        title = f"targets: {split} set, {len(drafts)} {'entry' if len(drafts) == 1 else 'entries'}"
        for _, forwards in run_tasks(run_block, sized, options=options, title=title, unit="crops"):
            for role, count in forwards.items():
                context.counters[f"teacher_forwards.{role}"] += count
        # Views first, since the scores of targets need the crops of a committed view.
        for step, draft in sorted(drafts.values(), key=lambda item: item[0].kind, reverse=True):
            _commit(context, step, draft, num)


def _check_inputs(context: Context, split: Split, drafts: Drafts) -> None:
    """Verify every entry that will be read: a lost shard would read as zeros, and so would become wrong targets."""
    needed: list[Step] = [instances_step(context, split)]
    for step, _ in drafts.values():
        if isinstance(step, TargetsStep):
            crops = view_step(context, split, step.view)
            needed += [teacher_step(context, step.role), *([] if crops.key in drafts else [crops])]
    for source in {source.entry_id: source for source in needed}.values():
        context.check(context.need(source))


def array_specs(context: Context, step: CachedStep) -> tuple[ArraySpec, ...]:
    """The arrays of a step's entry."""
    if isinstance(step, ViewStep):
        return view_arrays(context.heatmap_wh)
    return target_arrays(context.heatmap_wh, skeleton_of(context, step.split).num_keypoints)


def _jobs(context: Context, split: Split, table: File, num: int, drafts: Drafts) -> Iterator[BlockJob]:
    finished = {key: set(draft.parts()) for key, (_, draft) in drafts.items()}
    specs = {role: network_spec(context.need(teacher_step(context, role))) for role in ROLES}
    for block in range(-(-num // rows_per_block(num))):
        todo = [(step, draft) for key, (step, draft) in drafts.items() if part_name(block) not in finished[key]]
        views = tuple(_views_of(context, split, block, todo, drafts, specs))
        # On a GPU, decoding images takes most of the time, so one task decodes once for all views. On a CPU the teachers do,
        # so a task has one view: when it is killed, less work is lost.
        for together in [views] if context.device == "cuda" else [(view,) for view in views]:
            yield block_job(context, split, table, num, block, together, score=split == "val")


def block_job(
    context: Context, split: Split, table: File, num: int, block: int, views: tuple[BlockView, ...], *, score: bool
) -> BlockJob:
    """The task that fills ``block`` of each of ``views``, for a table of ``num`` instances."""
    settings = context.settings
    start = block * rows_per_block(num)
    return BlockJob(
        block=block,
        start=start,
        stop=min(start + rows_per_block(num), num),
        num=num,
        instances=table,
        images=image_source_of(context, split),
        views=views,
        size_wh=settings.crop.size_wh,
        seed=settings.views.seed,
        augment=settings.views.augment,
        device=context.device,
        precision=resolve_precision(settings.targets.precision, context.device),
        batch_size=settings.targets.batch_size,
        score=score,
    )


def _views_of(
    context: Context,
    split: Split,
    block: int,
    todo: Sequence[tuple[CachedStep, Draft]],
    drafts: Drafts,
    specs: dict[Role, NetworkSpec],
) -> Iterator[BlockView]:
    """What one block still lacks, by view; the crops of a view are read if they are stored already."""
    for view in sorted({step.view for step, _ in todo}):
        ours = [(step, draft) for step, draft in todo if step.view == view]
        crops = view_step(context, split, view)
        entry = context.find(crops)
        stored = entry.whole() if entry else None
        own = [draft.folder for step, draft in ours if isinstance(step, ViewStep)]
        if not own and stored is None:
            # An earlier run has finished this block of the view: read it from the draft.
            stored = drafts[crops.key][1].finished(*block_files(array_specs(context, crops), block))
        teachers = []
        for role in ROLES:
            outputs = tuple(
                BlockOutput(rule=step.rule, folder=draft.folder)
                for step, draft in ours
                if isinstance(step, TargetsStep) and step.role == role
            )
            if outputs:
                teachers.append(BlockTeacher(role=role, spec=specs[role], outputs=outputs))
        yield BlockView(view=view, stored=stored, draft=own[0] if own else None, teachers=tuple(teachers))


def _commit(context: Context, step: CachedStep, draft: Draft, num: int) -> Entry:
    specs = array_specs(context, step)
    blocks = range(-(-num // rows_per_block(num)))
    files = [*metadata_files(specs), *(name for block in blocks for name in block_files(specs, block))]
    measured: dict[str, Any] = {"rows": num, "shard_rows": rows_per_block(num)}
    made: dict[str, Any] = {"device": context.device}
    if isinstance(step, TargetsStep):
        made |= {"batch_size": context.settings.targets.batch_size}
        folder = draft.finished("bits/", "peak/").fetch()
        notes = [part.notes for part in draft.parts().values()]
        measured["bad_maps"] = sum(note["bad"] for note in notes)
        # A part that an earlier version finished does not tell the two kinds apart.
        measured["not_finite_maps"] = sum(note.get("not_finite", note["bad"]) for note in notes)
        measured["seen"] = taught_share(folder, num, skeleton_of(context, step.split).num_keypoints)
        # Before any score, which values that are not finite have none of.
        refuse_bad(context, step, measured)
        if step.split == "val":
            measured |= _scores(context, step, draft)
        _refuse_if_faint(context, step, measured, partial(read_peaks, folder))
        measured |= measured_findings(faint_findings(step, measured, read_peaks(folder)))
    return draft.commit(files, measured=measured, made=made)


def refuse_found(context: Context, step: TargetsStep) -> None:
    """Stop if an entry that exists cannot teach: another run may have made it, with other limits.

    Raises:
        TrainingError: too many heatmaps are bad, or next to none has bits.
    """
    entry = context.find(step)
    if entry is not None:
        refuse_bad(context, step, entry.measured)
        _refuse_if_faint(context, step, entry.measured, lambda: read_peaks(entry.fetch()))


def _refuse_if_faint(
    context: Context, step: TargetsStep, measured: Mapping[str, Any], peaks: Callable[[], npt.NDArray[np.float32]]
) -> None:
    scored = context.find(target_step(context, step.role, "val", 0, step.rule))
    scores = measured if step.split == "val" or scored is None else scored.measured
    is_given = "weights" in context.need(teacher_step(context, step.role)).manifest.recipe
    refuse_if_faint(context, step, measured["seen"], scores=scores, is_given=is_given, peaks=peaks)


def _scores(context: Context, step: TargetsStep, draft: Draft) -> dict[str, Any]:
    """The AP of the cached bits, and of the float maps that they were made from.

    The protocol is fixed, since many experiments share the entry: annotated boxes, no flip test, and the default rules of
    ``evaluate`` for scores and NMS, which are HRNet's.
    """
    truth = read_ground_truth(context, "val")
    entry = context.need(instances_step(context, "val"))
    instances = read_instances(entry.path(INSTANCES))
    crops = context.need(view_step(context, "val", step.view))
    affine = read_rows(crops.fetch(), "affine").astype(np.float64)
    width, height = context.heatmap_wh
    folder = draft.finished("bits/", "peak/", "block-").fetch()
    bits = unpack_bits(cast(Any, read_rows(folder, "bits")), (instances.skeleton.num_keypoints, height, width))
    xy, score = decode_bits(torch.from_numpy(bits), torch.from_numpy(read_rows(folder, "peak").astype(np.float32)))
    found = {"AP_from_bits": np.concatenate([to_image(xy, affine), score.numpy()[..., None]], -1).astype(np.float32)}
    parts = [np.load(folder / f"{name}.npz") for name in sorted(draft.parts())]
    for decoder in FLOAT_DECODERS:
        found[f"AP_float_{decoder}"] = np.concatenate([part[decoder] for part in parts])
    ones = np.ones(len(instances.id_N))
    protocol = Protocol(context.settings.crop.size_wh, flip=False)
    scored = {name: score_poses(truth, instances, ones, poses, protocol).measured for name, poses in found.items()}
    text = ", ".join(f"{name} {value['AP']:.3f}" for name, value in scored.items())
    context.notify(f"targets: {step.role} teacher: {text}")
    return {**{name: value["AP"] for name, value in scored.items()}, "scores_from_bits": scored["AP_from_bits"]}
