"""Stage distill: train the student on cached targets in the order of the schedule, and the baseline on labels alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from stages.base import Arm, Context, Step, StudentStep, pending, resolve_precision
from stages.data.images import DECODER_VERSION
from stages.distributed.ray_train import run_trainings, side_by_side
from stages.prepare.stage import INSTANCES, image_source_of, instances_step
from stages.settings import Role
from stages.starting import starting_recipe, starting_spec
from stages.targets.stage import refuse_found, target_step, view_step
from stages.teachers import architecture, drawn_views, num_keypoints, training_recipe
from stages.training.curve import METRICS
from stages.training.loop import WEIGHTS
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.schedule import Weights, epoch_weights, view_of_epoch
from storage_schemas.paths.path import Folder
from storage_schemas.store.store import Draft

__all__ = ["arms", "has_fresh_views", "make", "steps", "student_step"]

_VERSION = 3


def arms(context: Context) -> tuple[Arm, ...]:
    """The networks that are trained."""
    return ("student", "baseline") if context.settings.distill.baseline else ("student",)


def steps(context: Context) -> list[StudentStep]:
    """One step for each trained network."""
    return [student_step(context, arm) for arm in arms(context)]


def student_step(context: Context, arm: Arm) -> StudentStep:
    """The weights of a student; its recipe holds the crops and targets of each epoch, and the training settings."""
    settings = context.settings.distill
    waits: list[Step] = list(context.waits(instances_step(context, "train")))
    epochs: list[dict[str, Any]] = []
    for view, weights in _schedule(context, arm):
        if has_fresh_views(context, arm):
            epochs.append({"drawn": view, **drawn_views(context), "weights": asdict(weights)})
            continue
        crops = view_step(context, "train", view)
        read = {"view": crops.key, "weights": asdict(weights)}
        waits += context.waits(crops)
        for role in weights.roles():
            targets = target_step(context, role, "train", view, context.settings.binarize)
            read[role] = pending(targets.key) if targets.waits_for else targets.key
            waits += context.waits(targets)
        epochs.append(read)
    recipe: dict[str, Any] = {
        "instances": context.content(instances_step(context, "train")),
        "holdout_fraction": context.settings.prepare.holdout_fraction,
        "epochs": epochs,
        "distill": {
            "network": settings.student.network,
            "architecture": architecture(context, settings.student.network),
            "size_divisor": settings.size_divisor,
            "seed": settings.seed,
            **training_recipe(context, settings),
            **starting_recipe(settings.student),
        },
        "decoder": DECODER_VERSION,
        "version": _VERSION,
    }
    recipe["distill"] |= _labels_recipe(context, arm)
    for name in ("binarize_labels", "weight_by_peak"):
        # Settings that are off have no field, as in earlier releases; the baseline has no teacher to weight.
        if getattr(settings, name) and (arm == "student" or name == "binarize_labels"):
            recipe["distill"][name] = True
    if settings.hard.is_on:
        recipe["distill"]["hard"] = settings.hard.model_dump()
    if settings.keep == "best":
        recipe["distill"] |= {"keep": "best", "validate_every": settings.validate_every}
    unique = {(waited.kind, waited.key): waited for waited in waits}
    title = "student" if arm == "student" else "baseline (the student without teachers)"
    return StudentStep(title=title, recipe=recipe, waits_for=tuple(unique.values()), arm=arm)


def _labels_recipe(context: Context, arm: Arm) -> dict[str, Any]:
    """Who has labels and who is read. Without unlabelled people it is empty, so that keys are those of earlier releases."""
    settings, found = context.settings.distill, dict[str, Any]()
    if settings.labelled_fraction < 1:
        found["labelled_fraction"] = settings.labelled_fraction
    if settings.labelled_fraction < 1 or settings.use_unlabelled:
        found |= {"only_labelled": _only_labelled(context, arm), "labelled_share": _labelled_share(context, arm)}
    return found


def _only_labelled(context: Context, arm: Arm) -> bool:
    """Whether a network trains on labelled people alone: without teachers, the others teach it nothing."""
    return not any(weights.roles() for _, weights in _schedule(context, arm))


def _labelled_share(context: Context, arm: Arm) -> float | None:
    return None if _only_labelled(context, arm) else context.settings.distill.labelled_share


def _schedule(context: Context, arm: Arm) -> list[tuple[int, Weights]]:
    settings = context.settings
    taught = epoch_weights(settings.distill)
    weights = taught if arm == "student" else [Weights(1.0)] * len(taught)
    count = len(taught) if has_fresh_views(context, arm) else settings.views.count
    return [(view_of_epoch(epoch, count), weight) for epoch, weight in enumerate(weights)]


def has_fresh_views(context: Context, arm: Arm) -> bool:
    """Whether a network trains on a new view in each epoch, which no entry holds."""
    settings = context.settings
    # Without augmentation every view is the plain one.
    return arm == "baseline" and settings.distill.baseline_views == "fresh" and settings.views.count > 0


def make(context: Context, missing: Sequence[Step]) -> None:
    """Train the missing networks, after verifying every entry that they read."""
    at_once = [context.settings.distill for _ in {step.key for step in steps(context)}]
    for group in side_by_side(context, [step for step in missing if isinstance(step, StudentStep)]):
        with ExitStack() as stack:
            drafts: list[tuple[Arm, Draft]] = []
            for step in group:
                draft = stack.enter_context(context.store.draft(step.kind, step.recipe))
                if isinstance(draft, Draft):
                    drafts.append((step.arm, draft))
            plans = [_plan(context, arm, _epochs(context, arm), draft) for arm, draft in drafts]
            for (_, draft), made in zip(drafts, run_trainings(context, plans, at_once=at_once), strict=True):
                # The curve holds times, so it is left out: the same weights have the same content.
                measured = {"network": context.settings.distill.student.network, "content": draft.payload([WEIGHTS])}
                draft.commit([WEIGHTS, METRICS], measured=measured, made=made)


def _epochs(context: Context, arm: Arm) -> list[EpochPlan]:
    checked: dict[str, Folder] = {}

    def folder(step: Step) -> Folder:
        if step.key not in checked:
            entry = context.need(step)
            context.check(entry)
            checked[step.key] = entry.whole()
        return checked[step.key]

    def targets(role: Role, view: int, weights: Weights) -> Folder | None:
        if not weights.of(role):
            return None
        step = target_step(context, role, "train", view, context.settings.binarize)
        if step.key not in checked:
            refuse_found(context, step)
        return folder(step)

    return [
        EpochPlan(
            view=view,
            weights=weights,
            views=None if has_fresh_views(context, arm) else folder(view_step(context, "train", view)),
            primary=targets("primary", view, weights),
            senior=targets("senior", view, weights),
        )
        for view, weights in _schedule(context, arm)
    ]


def _plan(context: Context, arm: Arm, epochs: list[EpochPlan], draft: Draft) -> TrainingPlan:
    settings = context.settings
    table = context.need(instances_step(context, "train"))
    context.check(table)
    divisor = settings.distill.size_divisor
    network = starting_spec(
        context,
        settings.distill.student,
        draft,
        title=f"distill: {arm}",
        seed=settings.distill.seed,
        size_wh=(settings.crop.size_wh[0] // divisor, settings.crop.size_wh[1] // divisor),
        num_keypoints=num_keypoints(context),
    )
    return TrainingPlan(
        stage="distill",
        name=arm,
        network=network,
        instances=table.file(INSTANCES),
        images=image_source_of(context, "train"),
        folder=draft.folder,
        crop_wh=settings.crop.size_wh,
        size_divisor=settings.distill.size_divisor,
        epochs=epochs,
        train=settings.distill,
        precision=resolve_precision(settings.distill.precision, context.device),
        device=context.device,
        seed=settings.distill.seed,
        holdout_fraction=settings.prepare.holdout_fraction,
        only_labelled=_only_labelled(context, arm),
        labelled_fraction=settings.distill.labelled_fraction,
        labelled_share=_labelled_share(context, arm),
        validate_every=settings.distill.validate_every,
        keep_best=settings.distill.keep == "best",
        binarize_labels=settings.distill.binarize_labels,
        weight_by_peak=settings.distill.weight_by_peak,
        hard=settings.distill.hard if settings.distill.hard.is_on else None,
        views_seed=settings.views.seed,
        augment=settings.views.augment,
        events=context.run_dir / "tensorboard" / arm,
    )
