"""Stage evaluate: the students' AP, by one decoder for all rows, chosen on training people that nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.base import Arm, Context, ScoresStep, Step, StudentStep, Subset
from stages.distill import arms, student_step
from stages.distributed.predict import DECODERS
from stages.networks.spec import NetworkSpec
from stages.prepare import instances_step
from stages.scoring.network_scores import evaluation_step, score_network
from stages.settings import DecoderName
from stages.training.loop import WEIGHTS

__all__ = ["GROUND_TRUTH_BOXES", "chosen_decoder", "make", "protocol", "scores_of", "steps", "student_spec"]

GROUND_TRUTH_BOXES = "ground-truth boxes"
"""How the protocol, and rows that differ from it, name the annotated boxes."""


def steps(context: Context) -> list[ScoresStep]:
    """The scores of student and baseline on the validation set, and on the held-out people where they choose the decoder."""
    found = [_score_step(context, arm, "val") for arm in arms(context)]
    if context.settings.evaluate.decoder == "auto" and _has_holdout(context):
        found += [_score_step(context, arm, "holdout") for arm in arms(context)]
    return found


def make(context: Context, missing: Sequence[Step]) -> None:
    """Predict and score what is missing."""
    for step in missing:
        assert isinstance(step, ScoresStep)
        assert isinstance(step.network, StudentStep)
        entry = context.need(step.network)
        context.check(entry)
        score_network(
            context,
            student_spec(context, step.network.arm),
            context.content(step.network),
            step.who,
            stage="evaluate",
            subset=step.subset,
            boxes=step.boxes,
            divisor=step.divisor,
        )


def student_spec(context: Context, arm: Arm) -> NetworkSpec:
    """The trained student or baseline."""
    entry = context.need(student_step(context, arm))
    return NetworkSpec(network=entry.measured["network"], checkpoint=entry.file(WEIGHTS))


def _score_step(context: Context, arm: Arm, subset: Subset) -> ScoresStep:
    return evaluation_step(
        context,
        student_step(context, arm),
        arm,
        stage="evaluate",
        subset=subset,
        divisor=context.settings.distill.size_divisor,
    )


def _has_holdout(context: Context) -> bool:
    entry = context.find(instances_step(context, "train"))
    return entry is None or entry.measured["held_out"] > 0


def scores_of(context: Context, arm: Arm) -> dict[str, Any]:
    """The scores of an arm on the validation set, by decoder."""
    return context.need(_score_step(context, arm, "val")).measured


def chosen_decoder(context: Context) -> tuple[DecoderName, str]:
    """The decoder of all rows, and how it was chosen."""
    fixed = context.settings.evaluate.decoder
    if fixed != "auto":
        return fixed, "as configured"
    if not _has_holdout(context):
        return "quarter", "HRNet's own, since nobody is held out to choose another on (prepare.holdout_fraction)"
    measured = [context.need(_score_step(context, arm, "holdout")).measured for arm in arms(context)]
    means = {decoder: sum(scores[decoder]["AP"] for scores in measured) / len(measured) for decoder in DECODERS}
    best = max(DECODERS, key=lambda decoder: means[decoder])
    told = ", ".join(f"{decoder} {mean:.3f}" for decoder, mean in means.items())
    return best, f"best mean AP of {' and '.join(arms(context))} on {measured[0]['people']} held-out training people: {told}"


def protocol(context: Context) -> str:
    """Everything that an AP depends on beside the network's weights, in one line."""
    settings = context.settings
    width, height = settings.crop.size_wh
    divisor = settings.distill.size_divisor
    return ", ".join(
        [
            _boxes_told(context),
            "flip test with a shift of 1 px" if settings.evaluate.flip else "no flip test",
            f"decoder {chosen_decoder(context)[0]}",
            f"teachers' input {width}x{height}",
            f"student {settings.distill.network} at {width // divisor}x{height // divisor}",
            f"OKS-NMS {settings.evaluate.nms_threshold}",
            _people_told(context),
        ]
    )


def _boxes_told(context: Context) -> str:
    boxes = context.settings.evaluate.boxes
    if boxes is None:
        return GROUND_TRUTH_BOXES
    return f"boxes of the {' and '.join(arms(context))} from {boxes.name}, {GROUND_TRUTH_BOXES} for teachers and cached targets"


def _people_told(context: Context) -> str:
    people = context.need(instances_step(context, "val")).measured
    if context.settings.evaluate.boxes is None:
        return f"{people['people']} people on {people['images']} images"
    # Images that nobody is annotated on count too: what is detected there is wrong.
    scores = scores_of(context, "student")
    return f"{people['people']} people on {scores['images']} images, {scores['people']} detected boxes"
