"""The metrics of an experiment, read from the manifests of its entries; ``metrics.json`` holds them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from statistics import mean
from typing import Any, get_args

from stages import distill, evaluate, teachers
from stages.base import Context, Step, TargetsStep
from stages.data.holdout import count_held_out
from stages.findings import WARNINGS, Finding, findings_in
from stages.inference import DECODERS
from stages.prepare import stage as prepare
from stages.prepare.overlap import shared_images
from stages.prepare.stage import INSTANCES
from stages.settings import DecoderName, Role
from stages.targets import stage as targets
from stages.training.loop import WEIGHTS

__all__ = ["data_of", "entries_of", "findings", "summary"]


def entries_of(context: Context) -> list[Step]:
    """Every step of the experiment up to stage evaluate, in order."""
    return [step for module in (prepare, teachers, targets, distill, evaluate) for step in module.steps(context)]


def summary(context: Context) -> dict[str, Any]:
    """The metrics so far; parts whose entries are missing are left out."""
    found: dict[str, Any] = {
        "name": context.settings.name,
        "device": context.device,
        "seconds": {stage: round(seconds, 2) for stage, seconds in context.seconds.items()},
        "this_run": _this_run(context),
    }
    for name, part in (("data", data_of), ("teachers", _teachers), ("targets", _targets), ("evaluate", _evaluate)):
        if values := part(context):
            found[name] = values
    found[WARNINGS] = [asdict(finding) for finding in findings(context)]
    found["entries"] = _entries(context)
    student = context.find(distill.student_step(context, "student"))
    if student is not None:
        found["weights"] = str(student.folder / WEIGHTS)
    return found


def findings(context: Context) -> list[Finding]:
    """What is probably wrong, by the entries that exist and by comparing them, each finding once."""
    entries = [entry for step in entries_of(context) if (entry := context.find(step)) is not None]
    found = [finding for entry in entries for finding in findings_in(entry.measured)]
    return list(dict.fromkeys([*found, *shared_images(context)]))


def _this_run(context: Context) -> dict[str, Any]:
    """The work of the run that writes these metrics; all zeros if every entry existed before."""
    roles = get_args(Role)
    return {
        "seconds": {stage: round(seconds, 2) for stage, seconds in context.seconds.items()},
        "teacher_forwards": {role: context.counters[f"teacher_forwards.{role}"] for role in roles},
    }


def _entries(context: Context) -> dict[str, str]:
    """The entry id of each step, by the step's title."""
    found: dict[str, str] = {}
    for step in entries_of(context):
        if context.find(step) is not None:
            # Targets of targets.extra_binarizations have the same title as those of the main rule.
            title = f"{step.title} ({step.key})" if step.title in found else step.title
            found[title] = step.entry_id
    return found


def data_of(context: Context) -> dict[str, Any]:
    """What was measured of each split that has a table, with the number of held-out instances."""
    fractions = {"train": context.settings.prepare.holdout_fraction, "val": 0.0}
    entries = {step.split: context.find(step) for step in prepare.steps(context)}
    return {
        split: {**entry.measured, "held_out": count_held_out(entry.path(INSTANCES), fractions[split])}
        for split, entry in entries.items()
        if entry
    }


def _teachers(context: Context) -> dict[str, Any]:
    """AP of each teacher by the chosen decoder (until it is chosen, by quarter offset), and by every decoder."""
    decoder = _decoder(context)
    found: dict[str, Any] = {}
    for name, step in teachers.evaluations(context).items():
        if entry := context.find(step):
            every = {decoder: entry.measured[decoder]["AP"] for decoder in DECODERS}
            found[name] = {"AP": every[decoder], "AP_by_decoder": every}
    if "senior" in found and "senior without mask" in found:
        found["senior"]["AP_without_mask"] = found.pop("senior without mask")["AP"]
    return found


def _targets(context: Context) -> dict[str, Any]:
    """For each teacher: AP of its bits, bytes per view of the training set, and the share of joints that it teaches."""
    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[float]] = defaultdict(list)
    for step in targets.steps(context):
        entry = context.find(step)
        if entry is None or not isinstance(step, TargetsStep) or step.rule != context.settings.binarize:
            continue
        role = found.setdefault(step.role, {})
        if step.split == "val":
            role |= {name: entry.measured[name] for name in ("AP_from_bits", "AP_float_quarter", "AP_float_dark")}
            role["joints_seen_val"] = entry.measured["seen"]
        else:
            role["bytes_per_view"] = entry.manifest.size
            role["bytes_per_instance_and_view"] = round(entry.manifest.size / entry.measured["rows"], 2)
            seen[step.role].append(entry.measured["seen"])
            role["joints_seen_train"] = round(mean(seen[step.role]), 4)
    return found


def _evaluate(context: Context) -> dict[str, Any]:
    if any(context.find(step) is None for step in evaluate.steps(context)):
        return {}
    choice = evaluate.chosen_decoder(context)
    found: dict[str, Any] = {
        "protocol": evaluate.protocol(context),
        "decoder": choice.decoder,
        "decoder_chosen_by": choice.reason,
    }
    for arm in distill.arms(context):
        scores = evaluate.scores_of(context, arm)
        every = {name: scores[name]["AP"] for name in DECODERS}
        found[arm] = {**scores[choice.decoder], "AP_by_decoder": every}
    return found


def _decoder(context: Context) -> DecoderName:
    if any(context.find(step) is None for step in evaluate.steps(context)):
        return "quarter"
    return evaluate.chosen_decoder(context).decoder
