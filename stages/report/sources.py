"""The sources of the report: curves, the cache, the dataset, and every entry with its date and machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby

from stages import distill, teachers
from stages.base import ROLES, Context, TargetsStep, TeacherStep, ViewStep
from stages.prepare import stage as prepare
from stages.prepare.stage import skeleton_of
from stages.report.names import NAMES
from stages.report.page.content import CacheRow, Curve, EntryRow, Phase, SplitRow, Who
from stages.report.summary import data_of, entries_of
from stages.settings import Role
from stages.targets import stage as targets
from stages.training.curve import METRICS, read_curve
from stages.training.schedule import Weights, epoch_weights
from storage_schemas.store.store import Entry

__all__ = ["cache", "entries", "phases", "splits", "student_curves", "teacher_curves", "versions", "views_bytes"]

_FLOAT16_BYTES = 2
_COUNTS = ("instances", "images", "with_mask", "held_out", "quarantined", "skipped")


def phases(context: Context) -> list[Phase]:
    """The phases of the schedule: consecutive epochs with the same teachers."""
    found, epoch = [], 1
    for (label, who), stretch in groupby(epoch_weights(context.settings.distill), key=_teaching):
        length = len(list(stretch))
        found.append(Phase(epoch, epoch + length - 1, label, who))
        epoch += length
    return found


def _teaching(weights: Weights) -> tuple[str, Who]:
    if weights.primary and weights.senior:
        return "PT and ST", "other"
    if weights.primary:
        return "PT", "primary"
    return ("ST", "senior") if weights.senior else ("labels alone", "baseline")


def student_curves(context: Context) -> list[Curve]:
    """The loss of student and baseline."""
    return [_curve(context.need(distill.student_step(context, arm)), arm) for arm in distill.arms(context)]


def teacher_curves(context: Context) -> list[Curve]:
    """The loss of the teachers that were trained here."""
    return [
        _curve(entry, step.part)
        for step in teachers.steps(context)
        if isinstance(step, TeacherStep) and METRICS in (entry := context.need(step)).manifest.files
    ]


def _curve(entry: Entry, network: str) -> Curve:
    lines = read_curve(entry.path(METRICS).parent)
    return Curve(
        NAMES[network].who, NAMES[network].sentence, [line["epoch"] + 1 for line in lines], [line["loss"] for line in lines]
    )


def cache(context: Context) -> list[CacheRow]:
    """The cached targets of each teacher that the schedule uses."""
    found = []
    width, height = context.heatmap_wh
    num_joints = skeleton_of(context, "train").num_keypoints
    for role in ROLES:
        held = {split: _held(context, role, split) for split in ("train", "val")}
        if not (ours := held["train"]):
            continue
        instances, total = ours[0].measured["rows"], sum(entry.manifest.size for entry in ours)
        found.append(
            CacheRow(
                who=role,
                name=f"targets of {NAMES[role].short}",
                views=len(ours),
                instances=instances,
                total_bytes=total,
                bytes_per_view=round(total / len(ours)),
                bytes_per_instance=total / len(ours) / instances,
                dense_bytes_per_instance=num_joints * height * width * _FLOAT16_BYTES,
                seen=sum(entry.measured["seen"] for entry in ours) / len(ours),
                forwards_cached=sum(entry.measured["rows"] for entry in [*ours, *held["val"]]),
                forwards_now=context.counters[f"teacher_forwards.{role}"],
            )
        )
    return found


def _held(context: Context, role: Role, split: str) -> list[Entry]:
    return [
        context.need(step)
        for step in targets.steps(context)
        if isinstance(step, TargetsStep)
        and step.role == role
        and step.split == split
        and step.rule == context.settings.binarize
    ]


def views_bytes(context: Context) -> int:
    """Size of the crops and masks of the training set in bytes."""
    return sum(
        context.need(step).manifest.size
        for step in targets.steps(context)
        if isinstance(step, ViewStep) and step.split == "train"
    )


def splits(context: Context) -> list[SplitRow]:
    """The counts of each split, and the records that were left out, by reason."""
    names, data = {"train": "training set", "val": "validation set"}, data_of(context)
    return [
        SplitRow(
            names[step.split],
            **{name: data[step.split][name] for name in _COUNTS},
        )
        for step in prepare.steps(context)
    ]


def entries(context: Context) -> list[EntryRow]:
    """Every entry that the experiment is made from, in the order of the stages."""
    found = []
    for step in entries_of(context):
        manifest = context.need(step).manifest
        made = manifest.made
        machine = ", ".join(str(made[name]) for name in ("device", "host") if name in made)
        at = str(made["at"]).replace("T", " ").replace("+00:00", " UTC")
        found.append(EntryRow(step.title, step.kind, step.key, manifest.size, at, made["seconds"], machine))
    return found


def versions(context: Context) -> Mapping[str, str]:
    """The libraries that made the entries, with several versions if the entries were made with several."""
    found: dict[str, set[str]] = defaultdict(set)
    for step in entries_of(context):
        made = context.need(step).manifest.made
        for name, version in {"python": made["python"], **made["versions"]}.items():
            found[name].add(version)
    return {name: ", ".join(sorted(seen)) for name, seen in found.items()}
