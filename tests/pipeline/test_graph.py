"""The graph of stages: order, refused runs, and rebuilds that delete nothing too early."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import graph
from pipeline.experiments import experiments
from stages import distill, teachers
from stages.base import Context, ScoresStep, StageName, Step, TargetsStep, TeacherPart
from stages.targets import stage as targets
from storage_schemas.errors import ClusterError, ConfigError, CorruptEntryError, DataError, MissingInputError
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.step_samples import leave_entry, make_context, with_all, with_instances


@dataclass
class _Stage:
    """A stub stage whose steps have entries or not."""

    given: Callable[[Context], list[Step]]
    made: list[str] = field(default_factory=list)
    fails_at: str = ""

    def steps(self, context: Context) -> list[Step]:
        return self.given(context)

    def make(self, context: Context, missing: Sequence[Step]) -> None:
        for step in missing:
            if step.title == self.fails_at:
                raise DataError("The image has changed")
            self.made.append(step.title)
            leave_entry(context, step)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> _Stage:
    """A stub of ``distill``: two entries without upstream entries."""
    replaced = _Stage(lambda _: [Step("distill", "students", name, {"of": name}) for name in ("one", "two")])
    monkeypatch.setitem(graph.STAGES, "distill", replaced)
    return replaced


def _no_cluster() -> None:
    raise ClusterError("Cannot reach Ray")


# Building entries


def test_a_student_without_teachers_and_its_baseline_are_one_entry_and_train_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = with_instances(make_context(tmp_path, "distill.schedule=none"))
    for step in {step.key: step for arm in distill.steps(context) for step in arm.waits_for}.values():
        leave_entry(context, step)
    student, baseline = distill.steps(context)
    assert (student.key, student.waits_for) == (baseline.key, ())
    made: list[str] = []

    def make(context: Context, missing: Sequence[Step]) -> None:
        made.extend(step.title for step in missing)
        for step in missing:
            leave_entry(context, step)

    monkeypatch.setattr(distill, "make", make)
    graph.make_stage(context, "distill", force=None, connect=lambda: None)
    assert len(made) == 1
    assert context.find(student) == context.find(baseline) is not None


def test_force_with_a_key_rebuilds_only_that_entry(tmp_path: Path, stage: _Stage) -> None:
    graph.make_stage(make_context(tmp_path), "distill", force=None, connect=lambda: None)
    first, second = stage.steps(make_context(tmp_path))
    for text in (second.key, second.entry_id):
        context = make_context(tmp_path)
        graph.check(context, ["distill"], [text])
        graph.make_stage(context, "distill", force=[text], connect=lambda: None)
    assert stage.made == ["one", "two", "two", "two"]
    for text in (second.key[:8], f"targets/{second.key}", ""):
        with pytest.raises(ConfigError, match=f"--force {text}: no entry of distill") as caught:
            graph.check(make_context(tmp_path), ["distill"], [first.key, text])
        assert caught.value.allowed.endswith(f"{first.entry_id}, {second.entry_id}")
        assert suggested(caught.value) == f"python -m pipeline.cache ls --home {tmp_path}"


def test_force_deletes_nothing_if_the_cluster_cannot_be_reached(tmp_path: Path, stage: _Stage) -> None:
    context = make_context(tmp_path)
    graph.make_stage(context, "distill", force=None, connect=lambda: None)
    with pytest.raises(ClusterError):
        graph.make_stage(make_context(tmp_path), "distill", force=(), connect=_no_cluster)
    assert all(make_context(tmp_path).find(step) for step in stage.steps(context))
    graph.make_stage(make_context(tmp_path), "distill", force=(), connect=lambda: None)
    assert stage.made == ["one", "two"] * 2


def test_force_deletes_nothing_if_the_rebuild_fails(tmp_path: Path, stage: _Stage) -> None:
    """Such as a damaged image, which is read only during the work."""
    graph.make_stage(make_context(tmp_path), "distill", force=None, connect=lambda: None)
    before = [make_context(tmp_path).find(step) for step in stage.steps(make_context(tmp_path))]
    stage.fails_at = "two"
    with pytest.raises(DataError):
        graph.make_stage(make_context(tmp_path), "distill", force=(), connect=lambda: None)
    after = [make_context(tmp_path).find(step) for step in stage.steps(make_context(tmp_path))]
    assert after[0] not in (None, before[0]), "the first entry was rebuilt"
    assert after[1] == before[1]


def test_force_deletes_nothing_if_an_input_is_damaged(tmp_path: Path) -> None:
    """The student's crops are damaged; those of the validation set, which no student reads, do not matter."""
    context = with_all(make_context(tmp_path))
    crops = {"train": targets.view_step(context, "train", 1), "val": targets.view_step(context, "val", 0)}
    for entry in map(context.need, crops.values()):
        (local(entry.folder) / "file").write_bytes(b"damaged")
    with pytest.raises(CorruptEntryError, match=crops["train"].entry_id) as caught:
        graph.make_stage(context, "distill", force=(), connect=_no_cluster)
    assert f"repair {crops['train'].entry_id}" in suggested(caught.value)
    assert all(make_context(tmp_path).find(step) for step in distill.steps(context))
    (local(context.need(crops["train"]).folder) / "file").write_bytes(b"")
    with pytest.raises(ClusterError):
        graph.make_stage(context, "distill", force=(), connect=_no_cluster)


def test_force_deletes_nothing_if_a_damaged_input_is_of_the_same_stage(tmp_path: Path) -> None:
    """Views are entries of their own, and stay."""
    context = with_all(make_context(tmp_path))
    view = targets.view_step(context, "train", 1)
    (local(context.need(view).folder) / "file").write_bytes(b"damaged")
    made = next(step for step in targets.steps(context) if isinstance(step, TargetsStep) and step.split == "train")
    with pytest.raises(CorruptEntryError, match=view.entry_id):
        graph.make_stage(context, "targets", force=[made.key], connect=_no_cluster)
    assert make_context(tmp_path).find(made) is not None
    with pytest.raises(ClusterError):
        graph.make_stage(context, "targets", force=[made.key, view.key], connect=_no_cluster)


def test_a_damaged_teacher_is_not_scored(tmp_path: Path) -> None:
    context = with_all(make_context(tmp_path))
    scores = next(step for step in teachers.steps(context) if isinstance(step, ScoresStep))
    network = context.need(scores.network)
    (local(network.folder) / "file").write_bytes(b"damaged")
    with pytest.raises(CorruptEntryError, match=network.entry_id):
        graph.make_stage(context, "teachers", force=[scores.entry_id], connect=_no_cluster)
    assert make_context(tmp_path).find(scores) is not None
    with pytest.raises(CorruptEntryError, match=network.entry_id) as caught:
        teachers.make(context, [scores])
    assert suggested(caught.value, "odkd") == f"odkd --stage teachers --force {network.entry_id}"


def test_the_error_for_a_key_of_another_stage_names_that_stage(tmp_path: Path) -> None:
    """The scores of a teacher are an evaluation, but not an entry of stage 'evaluate'."""
    context = with_all(make_context(tmp_path))
    scores = next(step for step in teachers.steps(context) if step.kind == "evaluations")
    with pytest.raises(ConfigError) as caught:
        graph.check(context, ["evaluate"], [scores.entry_id])
    assert suggested(caught.value).endswith(f"--stage teachers --force {scores.entry_id}")


def test_without_work_the_cluster_is_not_contacted(tmp_path: Path, stage: _Stage) -> None:
    graph.make_stage(make_context(tmp_path), "distill", force=None, connect=lambda: None)
    graph.make_stage(make_context(tmp_path), "distill", force=None, connect=_no_cluster)
    assert stage.made == ["one", "two"]


def _noted(context: Context) -> set[str]:
    (experiment,) = experiments(context.home)
    return set(experiment.entry_ids)


def test_entries_that_a_stage_finds_are_noted_before_use(tmp_path: Path, stage: _Stage) -> None:
    context = make_context(tmp_path)
    for step in stage.steps(context):
        leave_entry(context, step)
    assert graph.make_stage(context, "distill", force=None, connect=_no_cluster) is None
    assert _noted(context) == {step.entry_id for step in stage.steps(context)}


def test_entries_that_a_stage_makes_are_noted_before_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the second entry depends on the first."""
    first = Step("distill", "students", "first", {"of": "labels"})
    seen: list[set[str]] = []

    class Chain(_Stage):
        def make(self, context: Context, missing: Sequence[Step]) -> None:
            seen.append(_noted(context))
            super().make(context, missing)

    def given(context: Context) -> list[Step]:
        return [first, Step("distill", "students", "second", {"of": context.content(first)}, context.waits(first))]

    chain = Chain(given)
    monkeypatch.setitem(graph.STAGES, "distill", chain)
    context = make_context(tmp_path)
    graph.make_stage(context, "distill", force=None, connect=lambda: None)
    assert chain.made == ["first", "second"]
    second = given(context)[1]
    assert seen == [{first.entry_id}, {first.entry_id, second.entry_id}]


# Refused arguments


@pytest.mark.parametrize(
    ("stage_name", "prepared", "seen", "before"),
    [
        ("teachers", False, "prepare that are missing: train instances, val instances", ["prepare"]),
        ("targets", False, "prepare and teachers that are missing: ", ["prepare", "teachers"]),
        ("targets", True, "teachers that are missing: primary teacher, senior teacher", ["teachers"]),
        ("distill", True, "teachers and targets that are missing: ", ["teachers", "targets"]),
        (
            "evaluate",
            False,
            "prepare, teachers, targets and distill that are missing: ",
            ["prepare", "teachers", "targets", "distill"],
        ),
        (
            "report",
            True,
            "teachers, targets, distill and evaluate that are missing: ",
            ["teachers", "targets", "distill", "evaluate"],
        ),
    ],
)
def test_the_error_names_every_stage_to_run_before_and_suggests_the_first(
    tmp_path: Path, stage_name: StageName, prepared: bool, seen: str, before: list[StageName]
) -> None:
    context = make_context(tmp_path)
    if prepared:
        with_instances(context)
    with pytest.raises(MissingInputError) as caught:
        graph.check(context, [stage_name])
    assert caught.value.seen.startswith(f"Stage '{stage_name}' needs results of {seen}")
    assert suggested(caught.value, "odkd") == f"odkd --stage {before[0]}"
    assert caught.value.allowed == f"first {', then '.join(before)}; or --stage all"


def test_all_stages_together_need_no_other_results(tmp_path: Path) -> None:
    stages = list(graph.STAGES)
    context = make_context(tmp_path)
    graph.check(context, stages)
    # Without one stage, the next one misses its results.
    for index, stage in enumerate(stages[:-1]):
        with pytest.raises(MissingInputError) as caught:
            graph.check(context, [*stages[:index], *stages[index + 1 :]])
        assert f"needs results of {stage} that" in caught.value.seen


def test_cpus_are_shared_among_all_trainings_of_a_group(tmp_path: Path) -> None:
    """Two steps of one entry train once, and given weights do not train, whichever of them are missing."""
    first: tuple[TeacherPart, ...] = ("primary", "base")
    second: tuple[TeacherPart, ...] = ("senior", "control")
    train = {"network": "hrnet_w8_tiny", "train": {"epochs": 1}}
    base = f"teachers.senior.base={json.dumps(train)}"
    alone = with_instances(make_context(tmp_path))
    assert [len(teachers.trained_at_once(alone, parts)) for parts in (first, second)] == [1, 1]
    both = with_instances(make_context(tmp_path, base, "teachers.senior.control=true"))
    assert [len(teachers.trained_at_once(both, parts)) for parts in (first, second)] == [2, 2]
    same = {**train, "train": both.settings.teachers.primary.model_dump(mode="json")["train"]}
    same["network"] = both.settings.teachers.primary.network
    one = with_instances(make_context(tmp_path, f"teachers.senior.base={json.dumps(same)}"))
    assert len(teachers.trained_at_once(one, first)) == 1
