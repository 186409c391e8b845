"""Stage evaluate: the AP of the students, by one decoder for all rows that is chosen on held-out training instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.base import Arm, Context, ScoresStep, Step, StudentStep, Subset
from stages.data.holdout import count_held_out
from stages.distill import arms, student_step
from stages.inference import DECODERS
from stages.networks.spec import NetworkSpec
from stages.prepare.stage import INSTANCES, instances_step
from stages.scoring.network_scores import evaluation_step, score_network
from stages.scoring.protocol import Counts, DecoderChoice, Protocol
from stages.training.loop import WEIGHTS

__all__ = ["chosen_decoder", "make", "protocol", "scores_of", "steps", "student_spec"]


def steps(context: Context) -> list[ScoresStep]:
    """The scores of student and baseline on the validation set, and on held-out instances where those choose the decoder."""
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
    """Whether instances are held out; a training set without a table yet is taken for a large one."""
    fraction = context.settings.prepare.holdout_fraction
    entry = context.find(instances_step(context, "train"))
    return fraction > 0 and (entry is None or count_held_out(entry.path(INSTANCES), fraction) > 0)


def scores_of(context: Context, arm: Arm) -> dict[str, Any]:
    """The scores of an arm on the validation set, by decoder."""
    return context.need(_score_step(context, arm, "val")).measured


def chosen_decoder(context: Context) -> DecoderChoice:
    """The decoder of all rows, and how it was chosen."""
    fixed = context.settings.evaluate.decoder
    if fixed != "auto":
        return DecoderChoice(fixed, by="setting")
    if not _has_holdout(context):
        return DecoderChoice("quarter", by="default")
    measured = [context.need(_score_step(context, arm, "holdout")).measured for arm in arms(context)]
    means = {decoder: sum(scores[decoder]["AP"] for scores in measured) / len(measured) for decoder in DECODERS}
    best = max(DECODERS, key=lambda decoder: means[decoder])
    return DecoderChoice(best, "held_out", arms(context), measured[0]["instances"], means)


def protocol(context: Context) -> str:
    """The printed protocol: everything that an AP depends on besides the network's weights, in one line."""
    settings = context.settings
    boxes = settings.evaluate.boxes
    shared = Protocol.of(settings, size_divisor=settings.distill.size_divisor, boxes=boxes)
    return shared.sentence(
        decoder=chosen_decoder(context).decoder,
        student=str(settings.distill.student.network),
        arms=arms(context),
        counts=_counts(context),
    )


def _counts(context: Context) -> Counts:
    annotated = context.need(instances_step(context, "val")).measured
    if context.settings.evaluate.boxes is None:
        return Counts(annotated["images"], annotated["instances"])
    # Images without annotations count too: every detection there is wrong.
    scores = scores_of(context, "student")
    return Counts(scores["images"], annotated["instances"], detected=scores["instances"])
