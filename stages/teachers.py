"""Stage teachers: load or train the primary, train the senior with a mask adapter, and score both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, get_args

from stages.base import Context, ScoresStep, Step, TeacherPart, TeacherStep, resolve_precision
from stages.data.images import DECODER_VERSION
from stages.data.views import VIEWS_VERSION
from stages.distributed.ray_train import run_trainings, side_by_side
from stages.given_weights import copy_weights, given_recipe
from stages.inference import DECODERS
from stages.networks.input_format import InputFormat
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec, architecture_recipe
from stages.prepare.stage import INSTANCES, image_source_of, instances_step
from stages.scoring.network_scores import evaluation_step, score_network
from stages.settings import Role, TeacherSource, TrainSettings
from stages.starting import starting_recipe, starting_spec, wanted_input
from stages.training.curve import METRICS
from stages.training.loop import WEIGHTS
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.schedule import Weights
from storage_schemas.store.store import Draft, Entry

__all__ = ["architecture", "drawn_views", "make", "network_spec", "steps", "teacher_step", "trained_at_once", "training_recipe"]

_SIDE_BY_SIDE: tuple[tuple[TeacherPart, ...], ...] = (("primary", "base"), ("senior", "control"))
"""Networks that are trained at the same time; each group starts from the group before."""
_VERSION = 1
_NO_SENIOR, _NO_PRIMARY = ("base",), ("network",)
"""A field that only seniors, or only primaries, have in their recipe: one is never an earlier version of the other."""
_NOT_IN_KEYS = {"workers", "loader_threads", "precision"}


def steps(context: Context) -> list[Step]:
    """Both teachers, with the senior's own base and its control where they are configured, and the AP of each."""
    return [*(_step(context, part) for part in _parts(context)), *evaluations(context).values()]


def _parts(context: Context) -> list[TeacherPart]:
    senior = context.settings.teachers.senior
    wanted = {"primary": True, "base": senior.base is not None, "senior": True, "control": senior.control}
    return [part for part in get_args(TeacherPart) if wanted[part]]


def evaluations(context: Context) -> dict[str, ScoresStep]:
    """The scores of the teachers on the validation set by the names in the report; the senior has two."""
    primary, senior = teacher_step(context, "primary"), teacher_step(context, "senior")
    found = {
        "primary": evaluation_step(context, primary, "primary teacher", stage="teachers"),
        "senior": evaluation_step(context, senior, "senior teacher", stage="teachers"),
        "senior without mask": evaluation_step(
            context, senior, "senior teacher without the mask", stage="teachers", withhold_mask=True
        ),
    }
    if context.settings.teachers.senior.control:
        found["control"] = evaluation_step(
            context, _step(context, "control"), "control trained without a mask", stage="teachers"
        )
    return found


def teacher_step(context: Context, role: Role) -> TeacherStep:
    """The entry of a teacher's weights."""
    return _step(context, role)


def network_spec(entry: Entry) -> NetworkSpec:
    """The network that an entry holds."""
    measured = entry.measured
    files = {name: entry.file(str(measured[name])) for name in ("weights", "checkpoint") if measured.get(name)}
    data = tuple(entry.file(str(name)) for name in measured.get("data", ()))
    fed = InputFormat.described(measured) if "input" in measured else None
    return NetworkSpec(network=measured["network"], senior=measured["senior"], data=data, input=fed, **files)


def training_recipe(context: Context, train: TrainSettings) -> dict[str, Any]:
    """What a training depends on besides its data: all settings except those that only divide the work."""
    recipe = {name: getattr(train, name) for name in TrainSettings.model_fields if name not in _NOT_IN_KEYS}
    if train.lr_drop_epochs is None:
        # As in earlier releases, which had no such setting.
        del recipe["lr_drop_epochs"]
    return {**recipe, "precision": resolve_precision(train.precision, context.device)}


def num_keypoints(context: Context) -> int:
    """The number of keypoints of the training set; known before its table exists."""
    return len(instances_step(context, "train").recipe["skeleton"]["keypoints"])


def architecture(context: Context, network: str | None) -> dict[str, Any] | None:
    """The layers that a network's name stands for, so that a change of them in another release changes keys."""
    return architecture_recipe(network, num_keypoints=num_keypoints(context)) if network else None


def _step(context: Context, part: TeacherPart) -> TeacherStep:
    size_wh = list(context.settings.crop.size_wh)
    if part in ("senior", "control"):
        return _senior_step(context, part, size_wh)
    source = _source(context, part)
    title = "primary teacher" if part == "primary" else "network under the senior"
    if source.weights is not None:
        return TeacherStep(
            title=title, recipe=given_recipe(source, part, size_wh=size_wh, version=_VERSION), part=part, same=_NO_SENIOR
        )
    assert source.train is not None
    table = instances_step(context, "train")
    recipe: dict[str, Any] = {
        "network": source.network,
        "architecture": architecture(context, source.network),
        "size_wh": size_wh,
        "instances": context.content(table),
        "holdout_fraction": context.settings.prepare.holdout_fraction,
        "train": training_recipe(context, source.train),
        **starting_recipe(source),
        "views": drawn_views(context),
        "decoder": DECODER_VERSION,
        "version": _VERSION,
    }
    return TeacherStep(title=title, recipe=recipe, waits_for=context.waits(table), part=part, same=_NO_SENIOR)


def _senior_step(context: Context, part: TeacherPart, size_wh: list[int]) -> TeacherStep:
    senior = context.settings.teachers.senior
    base, table = _base_step(context), instances_step(context, "train")
    recipe = {
        "base": context.content(base),
        "size_wh": size_wh,
        "instances": context.content(table),
        "holdout_fraction": context.settings.prepare.holdout_fraction,
        "train": training_recipe(context, senior.train),
        "mask": {"adapter_lr": senior.adapter_lr, "drop": senior.mask_drop} if part == "senior" else None,
        "views": drawn_views(context),
        "decoder": DECODER_VERSION,
        "version": _VERSION,
    }
    title = "senior teacher" if part == "senior" else "control of the senior"
    return TeacherStep(title=title, recipe=recipe, waits_for=context.waits(base, table), part=part, same=_NO_PRIMARY)


def _base_step(context: Context) -> TeacherStep:
    return _step(context, "primary" if context.settings.teachers.senior.base is None else "base")


def _source(context: Context, part: TeacherPart) -> TeacherSource:
    if part == "primary":
        return context.settings.teachers.primary
    base = context.settings.teachers.senior.base
    assert base is not None
    return base


def drawn_views(context: Context) -> dict[str, Any]:
    """How views are drawn; teachers train on a new view in every epoch, on which no cached target depends."""
    views = context.settings.views
    return {"seed": views.seed, "augment": views.augment.model_dump(), "version": VIEWS_VERSION}


def make(context: Context, missing: Sequence[Step]) -> None:
    """Make the missing teachers, then score them."""
    for parts in _SIDE_BY_SIDE:
        at_once = trained_at_once(context, parts)
        for group in side_by_side(context, [step for step in missing if isinstance(step, TeacherStep) and step.part in parts]):
            _make_group(context, group, at_once)
    for step in missing:
        if isinstance(step, ScoresStep):
            _score(context, step)


def _make_group(context: Context, group: Sequence[TeacherStep], at_once: Sequence[TrainSettings]) -> None:
    with ExitStack() as stack:
        drafts = [stack.enter_context(context.store.draft(step.kind, step.recipe)) for step in group]
        prepared = [
            _prepare(context, step.part, draft) for step, draft in zip(group, drafts, strict=True) if isinstance(draft, Draft)
        ]
        plans = [teacher.training for teacher in prepared if teacher.training]
        trained = iter(run_trainings(context, plans, at_once=at_once))
        for teacher in prepared:
            _finish(teacher, made=next(trained) if teacher.training else {"device": context.device})


def trained_at_once(context: Context, parts: Sequence[TeacherPart]) -> list[TrainSettings]:
    """The training settings of ``parts``, one for each entry; parts with given weights have none, and two can be one entry."""
    known = {_step(context, part).key: _train_settings(context, part) for part in _parts(context) if part in parts}
    return [train for train in known.values() if train]


def _train_settings(context: Context, part: TeacherPart) -> TrainSettings | None:
    """The training settings of a network, or None if its weights are given."""
    senior = context.settings.teachers.senior
    return senior.train if part in ("senior", "control") else _source(context, part).train


@dataclass(frozen=True)
class _Prepared:
    """A network whose draft is open: its training (None if weights are given), and the content of its entry."""

    part: TeacherPart
    draft: Draft
    training: TrainingPlan | None
    files: list[str]
    described: dict[str, Any]


def _prepare(context: Context, part: TeacherPart, draft: Draft) -> _Prepared:
    if part in ("senior", "control"):
        return _senior(context, part, draft)
    source = _source(context, part)
    return _given(context, part, source, draft) if source.weights is not None else _from_labels(context, part, source, draft)


def _finish(teacher: _Prepared, *, made: dict[str, Any]) -> None:
    # The curve holds times, so it is left out: the same weights have the same content.
    content = teacher.draft.payload([name for name in teacher.files if name != METRICS])
    teacher.draft.commit(teacher.files, measured={**teacher.described, "content": content}, made=made)


_WHO: dict[TeacherPart, str] = {
    "primary": "primary teacher",
    "base": "network under the senior",
    "senior": "senior teacher",
    "control": "control trained without a mask",
}


def _score(context: Context, step: ScoresStep) -> None:
    entry = context.need(step.network)
    context.check(entry)
    measured = score_network(
        context,
        network_spec(entry),
        entry.content,
        step.who,
        stage="teachers",
        withhold_mask=step.withhold_mask,
        is_given="weights" in entry.manifest.recipe,
    ).measured
    text = ", ".join(f"{measured[decoder]['AP']:.3f} {decoder}" for decoder in DECODERS)
    context.notify(f"teachers: AP of the {step.who}: {text}")


def _given(context: Context, part: TeacherPart, source: TeacherSource, draft: Draft) -> _Prepared:
    """Check that given weights load and give heatmaps of the right size, and copy all their files into the entry."""
    assert source.weights is not None
    # From where the user has them, so that a message names the user's file and not the copy.
    spec = NetworkSpec(network=source.network, weights=source.weights, input=wanted_input(source))
    load_network(spec, size_wh=context.settings.crop.size_wh, num_keypoints=num_keypoints(context))
    named = copy_weights(source.weights, draft)
    files = [named["weights"], *named.get("data", ())]
    fed = spec.input.description if spec.input else {}
    return _Prepared(part, draft, None, files, {"network": source.network, "senior": False, **named, **fed})


def _from_labels(context: Context, part: TeacherPart, source: TeacherSource, draft: Draft) -> _Prepared:
    assert source.train is not None
    spec = starting_spec(
        context,
        source,
        draft,
        title=f"teachers: {_WHO[part]}",
        seed=context.settings.views.seed,
        size_wh=context.settings.crop.size_wh,
        num_keypoints=num_keypoints(context),
    )
    plan = _plan(context, draft, _WHO[part], spec, source.train)
    described = {"network": source.network, "weights": WEIGHTS, "senior": False}
    return _Prepared(part, draft, plan, [WEIGHTS, METRICS], described)


def _senior(context: Context, part: TeacherPart, draft: Draft) -> _Prepared:
    settings = context.settings.teachers.senior
    entry = context.need(_base_step(context))
    context.check(entry)
    base = network_spec(entry)
    spec = replace(base, senior=part == "senior")
    # The control trains on the same instances, so that only the mask is different.
    plan = replace(_plan(context, draft, _WHO[part], spec, settings.train), only_masked=True)
    if part == "senior":
        plan = replace(plan, feed_mask=True, mask_drop=settings.mask_drop, adapter_lr=settings.adapter_lr)
    described = {"network": base.network, "checkpoint": WEIGHTS, "senior": part == "senior"}
    files = [WEIGHTS, METRICS]
    weights = entry.measured.get("weights") or ""
    if weights.endswith(".pt2"):
        program = "program.pt2"
        shutil.copyfile(entry.file(weights).fetch(), draft.work / program)
        described = {**described, "network": None, "weights": program}
        files = [program, *files]
    return _Prepared(part, draft, plan, files, described)


def _plan(context: Context, draft: Draft, name: str, spec: NetworkSpec, train: TrainSettings) -> TrainingPlan:
    settings = context.settings
    table = context.need(instances_step(context, "train"))
    context.check(table)
    return TrainingPlan(
        stage="teachers",
        name=name,
        network=spec,
        instances=table.file(INSTANCES),
        images=image_source_of(context, "train"),
        folder=draft.folder,
        crop_wh=settings.crop.size_wh,
        size_divisor=1,
        epochs=[EpochPlan(view=epoch + 1, weights=Weights(ground_truth=1.0)) for epoch in range(train.epochs)],
        train=train,
        precision=resolve_precision(train.precision, context.device),
        device=context.device,
        seed=settings.views.seed,
        holdout_fraction=settings.prepare.holdout_fraction,
        views_seed=settings.views.seed,
        augment=settings.views.augment,
        events=context.run_dir / "tensorboard" / name.replace(" ", "-"),
    )
