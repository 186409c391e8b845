"""Targets that cannot teach are refused with a limit that helps, or with none; a low share is a warning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from stages import distill, teachers
from stages.base import Context, TargetsStep
from stages.pose.binarize import binarize
from stages.settings import BinarizeSettings
from stages.targets.plausible import faint_findings, proposed_rule, read_peaks, refuse_bad, refuse_if_faint, taught_share
from stages.targets.stage import refuse_found, target_step, view_step
from storage_schemas.errors import TrainingError
from storage_schemas.formats.targets import create_arrays, pack_bits, rows_per_block, target_arrays, write_block
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.step_samples import leave_entry, make_context, with_instances

F32 = npt.NDArray[np.float32]


def _maps(peak: float, *, spread: float = 0.0, num: int = 40) -> torch.Tensor:
    """Gaussian maps [num, 3, 16, 12] whose peaks are around ``peak``."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    bump = torch.exp(-((x - 6) ** 2 + (y - 8) ** 2) / 8)
    height = peak * torch.exp(spread * torch.randn(num, 3, 1, 1, generator=torch.Generator().manual_seed(0)))
    return bump * height


def _bits(heat: torch.Tensor, rule: BinarizeSettings) -> tuple[npt.NDArray[np.bool_], F32]:
    bits, peak, _ = binarize(heat, mode=rule.mode, threshold=rule.threshold, min_peak=rule.min_peak, keep=rule.keep)
    return bits.numpy(), peak.numpy()


def _with(rule: BinarizeSettings, settings: tuple[str, ...]) -> BinarizeSettings:
    """The rule with settings as a user types them."""
    changes = {name.removeprefix("binarize."): float(value) for name, value in (each.split("=") for each in settings)}
    return BinarizeSettings(**{**rule.model_dump(), **changes})


@pytest.mark.parametrize("mode", ["relative", "absolute"])
@pytest.mark.parametrize(("peak", "spread"), [(0.1, 0.3), (0.0113, 0.5), (0.004, 1.0), (3e-5, 0.2)])
def test_the_proposed_limit_gives_bits_to_at_least_half_of_the_maps(mode: str, peak: float, spread: float) -> None:
    rule = BinarizeSettings.model_validate({"mode": mode})
    heat = _maps(peak, spread=spread)
    bits, peak_NK = _bits(heat, rule)
    assert bits.any(axis=(2, 3)).mean() < 0.05
    settings = proposed_rule(rule, peak_NK)
    bits, _ = _bits(heat, _with(rule, settings))
    assert bits.any(axis=(2, 3)).mean() >= 0.5


def test_the_proposal_for_peaks_of_a_tenth_is_a_fortieth() -> None:
    assert proposed_rule(BinarizeSettings(), np.full((9, 17), 0.0978, np.float32)) == ("binarize.min_peak=0.024",)
    absolute = BinarizeSettings(mode="absolute", threshold=0.9, min_peak=0.1)
    assert proposed_rule(absolute, np.full((9, 17), 0.5, np.float32)) == ("binarize.threshold=0.25",)


def test_no_limit_is_proposed_for_maps_without_positive_values() -> None:
    assert proposed_rule(BinarizeSettings(), np.full((9, 17), -0.5, np.float32)) == ()
    assert proposed_rule(BinarizeSettings(), np.zeros((9, 17), np.float32)) == ()


@pytest.mark.parametrize("rule", [BinarizeSettings(), BinarizeSettings(mode="absolute", threshold=0.8, min_peak=0.0)])
def test_the_share_counts_maps_that_have_bits_in_all_blocks(rule: BinarizeSettings, tmp_path: LocalPath) -> None:
    heat = _maps(0.6, spread=0.8, num=300)
    bits, peak = _bits(heat, rule)
    assert rows_per_block(300) < 300
    create_arrays(tmp_path, target_arrays((12, 16), 3), 300)
    size = rows_per_block(300)
    for block, start in enumerate(range(0, 300, size)):
        rows = slice(start, start + size)
        write_block(tmp_path, block, {"bits": pack_bits(bits[rows]), "peak": peak[rows].astype(np.float16)})
    expected = bits.any(axis=(2, 3)).mean()
    assert 0.2 < expected < 0.95
    assert taught_share(tmp_path, 300, 3) == pytest.approx(expected, abs=1e-4)
    assert read_peaks(tmp_path) == pytest.approx(peak, rel=1e-3)


@pytest.fixture
def context(tmp_path: LocalPath) -> Context:
    return with_instances(make_context(tmp_path, "distill.schedule=primary"))


def _step(context: Context, role: str = "primary", split: str = "val") -> TargetsStep:
    return target_step(context, role, split, 0 if split == "val" else 1, context.settings.binarize)  # type: ignore[arg-type]


def _faint(context: Context, step: TargetsStep, *, seen: float = 0.0, ap: float = 0.6, given: bool = True) -> int:
    """Ask whether faint maps are refused; returns how often all peaks were read, which only a refusal needs."""
    reads: list[F32] = []

    def peaks() -> F32:
        reads.append(np.full((9, 17), 0.1, np.float32))
        return reads[-1]

    refuse_if_faint(context, step, seen, scores={"AP_float_quarter": ap, "AP_float_dark": 0.0}, is_given=given, peaks=peaks)
    return len(reads)


@pytest.mark.parametrize("given", [True, False])
def test_a_good_but_faint_teacher_is_refused_with_the_limit_to_set(given: bool, context: Context) -> None:
    with pytest.raises(TrainingError, match=r"0\.0% of the heatmaps get bits by the rule \(min_peak 0\.2\)") as caught:
        _faint(context, _step(context), given=given)
    assert "their median peak is 0.1" in caught.value.seen
    assert suggested(caught.value, "odkd") == "odkd --stage targets --set binarize.min_peak=0.025"


def test_a_given_teacher_that_finds_no_joints_is_refused_without_a_limit(context: Context) -> None:
    with pytest.raises(TrainingError, match=r"the AP of the heatmaps is 0\.010") as caught:
        _faint(context, _step(context), ap=0.01)
    assert caught.value.remedy is None


def test_a_trial_run_a_teacher_without_use_and_a_taught_share_go_on(context: Context) -> None:
    assert _faint(context, _step(context), ap=0.0, given=False) == 0
    assert _faint(context, _step(context, "senior")) == 0
    assert _faint(context, _step(context), seen=0.01) == 0
    other = target_step(context, "primary", "val", 0, BinarizeSettings(min_peak=0.9))
    assert _faint(context, other) == 0


@pytest.mark.parametrize(
    ("seen", "ap", "advice"), [(0.3, 0.6, "With binarize.min_peak=0.025"), (0.0, 0.0, "Check the teacher")]
)
def test_a_low_share_is_one_warning_for_the_validation_set(seen: float, ap: float, advice: str, context: Context) -> None:
    measured = {"seen": seen, "AP_float_quarter": ap, "AP_float_dark": ap}
    peak_NK = np.full((10, 17), 0.1, np.float32)
    [found] = faint_findings(_step(context), measured, peak_NK)
    assert (found.kind, found.count, found.of) == ("faint_heatmaps", round((1 - seen) * 170), 170)
    assert "median peak is 0.1" in found.seen
    assert found.remedy.startswith(advice)
    assert faint_findings(_step(context, split="train"), measured, peak_NK) == []
    assert faint_findings(_step(context), {**measured, "seen": 0.78}, peak_NK) == []


def test_bad_maps_are_refused_and_full_precision_is_proposed_only_where_there_was_less(context: Context) -> None:
    step = _step(context)
    refuse_bad(context, step, {"rows": 1, "bad_maps": 0})
    for precision, proposed in (("bfloat16", True), ("float32", False)):
        made = TargetsStep(**{**vars(step), "recipe": {**step.recipe, "precision": precision}})
        with pytest.raises(TrainingError, match="5 of 17 heatmaps") as caught:
            refuse_bad(context, made, {"rows": 1, "bad_maps": 5})
        assert (caught.value.remedy is not None) == proposed


@pytest.mark.parametrize(
    ("not_finite", "zeros", "precision", "kinds", "settings"),
    [
        (3, 0, "bfloat16", "3 are not finite (NaN or infinity)", "targets.precision=float32"),
        (3, 0, "float32", "3 are not finite (NaN or infinity)", ""),
        (0, 3, "bfloat16", "3 are zero everywhere", "targets.max_bad_fraction=0.177"),
        (0, 3, "float32", "3 are zero everywhere", "targets.max_bad_fraction=0.177"),
        (0, 9, "bfloat16", "9 are zero everywhere", ""),
        (2, 3, "float32", "2 are not finite (NaN or infinity) and 3 are zero everywhere", ""),
        (
            *(2, 3, "bfloat16", "2 are not finite (NaN or infinity) and 3 are zero everywhere"),
            "targets.precision=float32 --set targets.max_bad_fraction=0.177",
        ),
    ],
)
def test_a_refusal_tells_the_kinds_of_bad_maps_apart_and_proposes_what_helps_against_each(
    not_finite: int, zeros: int, precision: str, kinds: str, settings: str, context: Context
) -> None:
    step = _step(context)
    made = TargetsStep(**{**vars(step), "recipe": {**step.recipe, "precision": precision}})
    with pytest.raises(TrainingError) as caught:
        refuse_bad(context, made, {"rows": 1, "bad_maps": not_finite + zeros, "not_finite_maps": not_finite})
    assert caught.value.seen.endswith(f"cannot teach: {kinds}")
    proposed = suggested(caught.value, "odkd") if caught.value.remedy else ""
    assert proposed == (f"odkd --stage targets --set {settings}" if settings else "")


def test_entries_that_another_run_made_are_held_to_the_limits_of_this_run(tmp_path: LocalPath) -> None:
    before = make_context(tmp_path, "distill.schedule=primary")
    for made in (teachers.teacher_step(with_instances(before), "primary"), view_step(before, "train", 1)):
        leave_entry(before, made, content=made.key)
    step = _step(before, split="train")
    leave_entry(before, step, rows=100, bad_maps=17, seen=0.9)
    refuse_found(make_context(tmp_path, "distill.schedule=primary", "targets.max_bad_fraction=0.01"), step)
    strict = make_context(tmp_path, "distill.schedule=primary", "targets.max_bad_fraction=0.009")
    with pytest.raises(TrainingError, match="17 of 1700 heatmaps"):
        refuse_found(strict, step)
    with pytest.raises(TrainingError, match="17 of 1700 heatmaps"):
        distill._epochs(strict, "student")
