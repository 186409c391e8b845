"""The graph: what is planned and in which words, what comes before what, and that nothing is taken away too early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from pipeline import graph
from pipeline.config import load_settings
from pipeline.experiments import experiments
from stages import distill, prepare
from stages.context import Context, StageName, Step
from storage_schemas.entry import Draft
from storage_schemas.errors import ClusterError, MissingInputError


def _context(home: Path, *overrides: str) -> Context:
    return Context(load_settings(None, overrides), home, "cpu", command="odkd")


def _leave(context: Context, step: Step, **measured: Any) -> None:  # noqa: ANN401 (whatever the stage measures)
    """An entry of the step, with a file that says nothing."""
    with context.store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        (draft.folder / "file").write_bytes(b"")
        draft.commit(["file"], measured=measured)


def _prepared(context: Context) -> Context:
    for step in prepare.steps(context):
        _leave(context, step, held_out=1, content=f"people of {step.about['split']}")
    return context


@dataclass
class _Stage:
    """A stage of steps that are there or not, in place of a real one."""

    given: Callable[[Context], list[Step]]
    made: list[str] = field(default_factory=list)

    def steps(self, context: Context) -> list[Step]:
        return self.given(context)

    def make(self, context: Context, missing: Sequence[Step]) -> None:
        for step in missing:
            self.made.append(step.title)
            _leave(context, step)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> _Stage:
    """In place of ``distill``: two entries that wait for nothing."""
    replaced = _Stage(lambda _: [Step("distill", "students", name, {"of": name}) for name in ("one", "two")])
    monkeypatch.setitem(graph.STAGES, "distill", cast("ModuleType", replaced))
    return replaced


def _no_cluster() -> None:
    raise ClusterError("Cannot reach Ray")


# Making


def test_a_student_without_teachers_and_its_baseline_are_one_entry_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _prepared(_context(tmp_path, "distill.schedule=none"))
    for step in {step.key: step for arm in distill.steps(context) for step in arm.waits_for}.values():
        _leave(context, step)
    student, baseline = distill.steps(context)
    assert (student.key, student.waits_for) == (baseline.key, ())
    made: list[str] = []

    def make(context: Context, missing: Sequence[Step]) -> None:
        made.extend(step.title for step in missing)
        for step in missing:
            _leave(context, step)

    monkeypatch.setattr(distill, "make", make)
    graph.make_stage(context, "distill", force=False, connect=lambda: None)
    assert len(made) == 1
    assert context.find(student) == context.find(baseline) is not None


def test_force_takes_nothing_away_when_the_cluster_cannot_be_reached(tmp_path: Path, stage: _Stage) -> None:
    context = _context(tmp_path)
    graph.make_stage(context, "distill", force=False, connect=lambda: None)
    with pytest.raises(ClusterError):
        graph.make_stage(_context(tmp_path), "distill", force=True, connect=_no_cluster)
    assert all(_context(tmp_path).find(step) for step in stage.steps(context))
    graph.make_stage(_context(tmp_path), "distill", force=True, connect=lambda: None)
    assert stage.made == ["one", "two"] * 2


def test_without_work_the_cluster_is_not_asked_for(tmp_path: Path, stage: _Stage) -> None:
    graph.make_stage(_context(tmp_path), "distill", force=False, connect=lambda: None)
    graph.make_stage(_context(tmp_path), "distill", force=False, connect=_no_cluster)
    assert stage.made == ["one", "two"]


def _noted(context: Context) -> set[str]:
    (experiment,) = experiments(context.home)
    return set(experiment.places)


def test_what_a_stage_finds_is_noted_before_it_is_used(tmp_path: Path, stage: _Stage) -> None:
    context = _context(tmp_path)
    for step in stage.steps(context):
        _leave(context, step)
    assert graph.make_stage(context, "distill", force=False, connect=_no_cluster) is None
    assert _noted(context) == {step.place for step in stage.steps(context)}


def test_what_a_stage_makes_is_noted_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second entry has its key only when the first is there."""
    first = Step("distill", "students", "first", {"of": "labels"})
    seen: list[set[str]] = []

    class Chain(_Stage):
        def make(self, context: Context, missing: Sequence[Step]) -> None:
            seen.append(_noted(context))
            super().make(context, missing)

    def given(context: Context) -> list[Step]:
        return [first, Step("distill", "students", "second", {"of": context.content(first)}, context.waits(first))]

    chain = Chain(given)
    monkeypatch.setitem(graph.STAGES, "distill", cast("ModuleType", chain))
    context = _context(tmp_path)
    graph.make_stage(context, "distill", force=False, connect=lambda: None)
    assert chain.made == ["first", "second"]
    second = given(context)[1]
    assert seen == [{first.place}, {first.place, second.place}]


@pytest.mark.parametrize(
    ("stage_name", "prepared", "proposed"),
    [
        ("distill", False, "prepare"),
        # The first that the student waits for are views, which stage targets makes, which needs the teachers.
        ("distill", True, "teachers"),
        ("evaluate", True, "teachers"),
        ("report", False, "prepare"),
        ("teachers", False, "prepare"),
    ],
)
def test_the_first_stage_that_can_run_is_proposed(
    tmp_path: Path, stage_name: StageName, prepared: bool, proposed: StageName
) -> None:
    context = _context(tmp_path)
    if prepared:
        _prepared(context)
    with pytest.raises(MissingInputError) as caught:
        graph.make_stage(context, stage_name, force=False, connect=_no_cluster)
    assert caught.value.run.startswith(f"odkd --stage {proposed} ")


# The plan


def test_a_plan_with_force_says_that_what_is_there_is_made_again(tmp_path: Path, stage: _Stage) -> None:
    context = _context(tmp_path)
    _leave(context, stage.steps(context)[0])
    plain = graph.render_plan(graph.plan(context, ["distill"])).splitlines()
    assert [line.split()[:3] for line in plain] == [["distill", "hit", "one"], ["distill", "stale", "two"]]
    forced = graph.render_plan(graph.plan(context, ["distill"], force=True)).splitlines()
    assert forced[0].startswith("distill   stale one ")
    assert forced[0].endswith(": there, and --force makes it again")
    assert forced[1] == plain[1]
    assert context.find(stage.steps(context)[0]), "a plan takes nothing away"


def test_a_changed_weight_of_the_teachers_is_shown_and_not_two_beginnings_that_are_equal(tmp_path: Path) -> None:
    six = ("distill.epochs=6", "distill.finish=0.0")
    context = _context(tmp_path, *six, "distill.teacher_weight=0.5")
    _leave(context, distill.student_step(context, "student"))
    changed = _context(tmp_path, *six, "distill.teacher_weight=0.7")
    (planned, _) = graph.plan(changed, ["distill"])
    # 6 epochs: in the first half the primary's share goes from 0.5 to 0.7.
    assert "epochs[0 and 5 more].weights.ground_truth: 0.5 -> 0.3" in planned.why
    assert "epochs[0 and 5 more].weights.primary: 0.5 -> 0.7" in planned.why


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.5, 0.7), ["0.5", "0.7"]),
        ((0.30000000000000004, 0.1), ["0.3", "0.1"]),
        ((0.30000000000000004, 0.3), ["0.30000000000000004", "0.3"]),
        ((None, [1, 2]), ["nothing", "[1, 2]"]),
        (("a" * 30, "b" * 30), ["a" * 12 + "...", "b" * 12 + "..."]),
        (("evaluations of 3f9c1a2b4d5e", "evaluations of 77b02e2b4d5e"), ["...3f9c1a2b4d5e", "...77b02e2b4d5e"]),
        (("the same and more of it all", "the same and more of it"), ["... all", "..."]),
    ],
)
def test_values_that_differ_are_cut_so_that_they_still_do(values: tuple[object, object], shown: list[str]) -> None:
    assert graph._short(*values) == shown


def test_another_view_is_no_earlier_version_of_a_view(tmp_path: Path) -> None:
    context = _prepared(_context(tmp_path, "views.count=1"))
    first = next(step for step in graph.STAGES["targets"].steps(context) if step.title == "train view 1")
    _leave(context, first)
    more = _context(tmp_path, "views.count=2", "distill.epochs=2")
    planned = {item.step.title: item for item in graph.plan(more, ["targets"])}
    assert planned["train view 1"].status == "hit"
    assert (planned["train view 2"].status, planned["train view 2"].why) == ("miss", "never made")
    other = {item.step.title: item for item in graph.plan(_context(tmp_path, "views.seed=5"), ["targets"])}
    assert other["train view 1"].status == "stale"
    assert "views.seed: 0 -> 5" in other["train view 1"].why
