"""Whether targets can teach: heatmaps that are not finite or empty, and heatmaps too faint to get bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.base import Context, TargetsStep
from stages.findings import Finding
from stages.prepare.stage import skeleton_of
from stages.settings import BinarizeSettings
from stages.training.schedule import epoch_weights
from storage_schemas.errors import Remedy, TrainingError
from storage_schemas.formats.targets import read_rows, rows_per_block

__all__ = ["faint_findings", "proposed_rule", "read_peaks", "refuse_bad", "refuse_if_faint", "taught_share"]

_NOTHING, _LITTLE = 0.01, 0.5
"""Below the first share of heatmaps with bits, next to nothing is taught; below the second, less than a user expects."""
_MOST_ZEROS = 0.5
"""If more of the heatmaps are zero everywhere, the teacher is wrong, and no setting helps."""
_NO_POSE_AP = 0.05


def taught_share(folder: Path, num: int, num_keypoints: int) -> float:
    """The share of heatmaps that have at least one bit, in the arrays of ``num`` rows in ``folder``."""
    rows, taught = rows_per_block(num), 0
    for start in range(0, num, rows):
        packed_NP = read_rows(folder, "bits", start, min(start + rows, num))
        # The sides of a heatmap are multiples of 8, so no byte holds bits of two maps.
        taught += int(packed_NP.reshape(len(packed_NP), num_keypoints, -1).any(axis=-1).sum())
    return round(taught / (num * num_keypoints), 4)


def proposed_rule(rule: BinarizeSettings, peak_NK: npt.NDArray[np.floating]) -> tuple[str, ...]:
    """Settings with which at least half of the maps get bits, or none if half of the maps have no positive value.

    A quarter of the median peak is for these maps what the default of 0.2 is for maps with peaks of about 0.8.
    """
    median = float(np.median(peak_NK))
    if not median > 0:
        return ()
    settings = [("min_peak", min(rule.min_peak, _rounded_down(median / 4)))]
    if rule.mode == "absolute":
        settings.append(("threshold", min(rule.threshold, _rounded_down(median / 2))))
    return tuple(f"binarize.{name}={value:g}" for name, value in settings if value != getattr(rule, name))


def _rounded_down(value: float) -> float:
    """The value with two digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / step) * step


def refuse_bad(context: Context, step: TargetsStep, measured: Mapping[str, Any]) -> None:
    """Stop if more heatmaps are bad than ``targets.max_bad_fraction`` allows; raises ``TrainingError``."""
    allowed, bad = context.settings.targets.max_bad_fraction, measured["bad_maps"]
    num_maps = measured["rows"] * skeleton_of(context, step.split).num_keypoints
    if bad <= allowed * num_maps:
        return
    # Entries of earlier versions do not tell the two kinds apart.
    not_finite = measured.get("not_finite_maps", bad)
    zeros = bad - not_finite
    kinds = ((not_finite, "not finite (NaN or infinity)"), (zeros, "zero everywhere"))
    settings = _settings_for_bad(not_finite, zeros / num_maps, allowed, precision=step.recipe["precision"])
    raise TrainingError(
        f"{bad} of {num_maps} heatmaps in the {step.title} cannot teach: "
        + " and ".join(f"{count} are {kind}" for count, kind in kinds if count),
        allowed=f"at most {allowed:.2%} (targets.max_bad_fraction); check that the teacher's weights are right"
        + ("; maps of zeros are right only for a network that ends in a ReLU and sees no joint there" if zeros else ""),
        remedy=Remedy("run", stage="targets", settings=settings) if settings else None,
    )


def _settings_for_bad(not_finite: int, zeros: float, allowed: float, *, precision: str) -> tuple[str, ...]:
    """Settings with which ``not_finite`` maps and a share of ``zeros`` are no longer refused; empty if there are none."""
    if (not_finite and precision != "bfloat16") or zeros > _MOST_ZEROS:
        return ()
    # Differences that are lost in the few digits of bfloat16, as in a division by zero, remain in float32.
    settings = ["targets.precision=float32"] if not_finite else []
    if zeros > allowed:
        settings.append(f"targets.max_bad_fraction={math.ceil(zeros * 1000) / 1000:g}")
    return tuple(settings)


def refuse_if_faint(
    context: Context,
    step: TargetsStep,
    seen: float,
    *,
    scores: Mapping[str, Any],
    is_given: bool,
    peaks: Callable[[], npt.NDArray[np.float32]],
) -> None:
    """Stop if the schedule reads the teacher and next to no heatmap has bits.

    Args:
        context: the run.
        step: the targets.
        seen: the share of heatmaps with bits.
        scores: what was measured of the teacher's targets of the validation set, with the AP of the heatmaps.
        is_given: whether the teacher's weights are the user's. A teacher that odkd trained so shortly that it finds no
            joints gets a warning only: a trial run of all stages may be wanted.
        peaks: reads the peaks of the heatmaps.

    Raises:
        TrainingError: the student would learn nothing from this teacher.
    """
    roles = {role for weight in epoch_weights(context.settings.distill) for role in weight.roles()}
    if seen >= _NOTHING or step.role not in roles or step.rule != context.settings.binarize:
        return
    finds_joints = _finds_joints(scores)
    if not finds_joints and not is_given:
        return
    peak_NK = peaks()
    # A lower limit helps a faint teacher, but not one that finds no joints.
    settings = proposed_rule(step.rule, peak_NK) if finds_joints else ()
    raise TrainingError(
        f"The {step.title}, teach next to nothing: {_seen_text(seen, step.rule, peak_NK)}"
        + ("" if finds_joints else f"; the AP of the heatmaps is {_ap(scores):.3f}"),
        allowed="heatmaps with a peak of about 1 at each joint; "
        + ("or a lower limit, or a network that scales its output" if settings else "check the teacher's weights"),
        remedy=Remedy("run", stage="targets", settings=settings) if settings else None,
    )


def _ap(scores: Mapping[str, Any]) -> float:
    """The AP of a teacher's heatmaps; 1 where it is not known."""
    return max(float(scores.get(f"AP_float_{decoder}", 1.0)) for decoder in ("quarter", "dark"))


def _finds_joints(scores: Mapping[str, Any]) -> bool:
    return _ap(scores) >= _NO_POSE_AP


def _seen_text(seen: float, rule: BinarizeSettings, peak_NK: npt.NDArray[np.floating]) -> str:
    limits = f"min_peak {rule.min_peak:g}" + (f", threshold {rule.threshold:g}" if rule.mode == "absolute" else "")
    return (
        f"{seen:.1%} of the heatmaps get bits by the rule ({limits}), and their median peak is {float(np.median(peak_NK)):.3g}"
    )


def faint_findings(step: TargetsStep, measured: Mapping[str, Any], peak_NK: npt.NDArray[np.floating]) -> list[Finding]:
    """One finding if less than half of the heatmaps of the validation set get bits; views of the training set repeat it."""
    seen = measured["seen"]
    if step.split != "val" or seen >= _LITTLE:
        return []
    settings = proposed_rule(step.rule, peak_NK) if _finds_joints(measured) else ()
    helps = f"With {' and '.join(settings)} at least half would"
    return [
        Finding(
            kind="faint_heatmaps",
            seen=f"In the {step.title}, only {_seen_text(seen, step.rule, peak_NK)}",
            remedy=helps if settings else "Check the teacher's weights and training",
            count=round((1 - seen) * peak_NK.size),
            of=peak_NK.size,
            example=step.title,
        )
    ]


def read_peaks(folder: Path) -> npt.NDArray[np.float32]:
    """The peak of each heatmap [N, K]."""
    return read_rows(folder, "peak").astype(np.float32)
