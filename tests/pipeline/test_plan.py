"""The plan of a dry run: each entry's status, and the reason in the names of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import graph
from pipeline import plan as dry_run
from pipeline.plan import plan, render_plan
from stages import distill, teachers
from stages.base import StageName, Step
from stages.prepare import stage as prepare
from stages.targets import stage as targets
from storage_schemas.paths.local import LocalPath
from storage_schemas.store import draft as draft_module
from storage_schemas.store.store import Store
from tests.support.step_samples import leave_entry, make_context, with_all, with_instances
from tests.support.store_samples import RECIPE, entries_of, make_entry


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which all stages have run."""
    home = tmp_path_factory.mktemp("finished")
    with_all(make_context(home))
    return home


def test_existing_entries_are_one_line_a_stage(finished: Path) -> None:
    assert render_plan(plan(make_context(finished), list(graph.STAGES))).splitlines() == [
        "prepare   hit    train instances and 1 more",
        "teachers  hit    primary teacher and 4 more",
        "targets   hit    val view 0 and 10 more",
        "distill   hit    student and 1 more",
        "evaluate  hit    AP of the student on the validation set and 3 more",
        "report    hit    report",
    ]


def test_an_entry_that_waits_for_a_deleted_teacher_is_a_miss_and_not_stale(tmp_path: Path) -> None:
    """The senior is not an older primary, and the report may be the same once the teacher exists again."""
    context = with_all(make_context(tmp_path))
    context.store.discard(context.need(teachers.teacher_step(context, "primary")))
    lines = render_plan(plan(make_context(tmp_path), ["teachers", "report"])).splitlines()
    assert lines[:2] == [
        "teachers  miss   primary teacher: not made yet",
        "teachers  miss   senior teacher and 1 more: waits for primary teacher",
    ]
    assert lines[-1].startswith("report    miss   report: waits for primary teacher, ")


def test_the_baseline_is_not_an_earlier_version_of_the_student(tmp_path: Path) -> None:
    """They differ in few fields, but are two entries."""
    context = with_all(make_context(tmp_path))
    for planned in plan(make_context(tmp_path, "distill.lr=0.01"), ["distill"]):
        assert planned.why == "the existing entry differs in distill.lr: 0.002 -> 0.01", (
            "each differs from its own earlier version"
        )
    context.store.discard(context.need(distill.student_step(context, "student")))
    assert render_plan(plan(make_context(tmp_path), ["distill"])).splitlines() == [
        "distill   miss   student: not made yet",
        "distill   hit    baseline (the student without teachers)",
    ]


def test_a_missing_entry_is_listed_with_the_entries_it_waits_for(tmp_path: Path) -> None:
    lines = render_plan(plan(make_context(tmp_path), ["prepare", "teachers", "distill"])).splitlines()
    assert lines[:3] == [
        "prepare   miss   train instances and 1 more: not made yet",
        "teachers  miss   primary teacher: waits for train instances",
        "teachers  miss   senior teacher: waits for primary teacher, train instances",
    ]
    assert lines[-2].startswith("distill   miss   student: waits for train instances, train view 1, ")
    assert lines[-2].endswith(" and 6 more"), "only the first three are named"


def test_force_makes_a_hit_stale_and_a_plan_deletes_nothing(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    first, _ = prepare.steps(context)
    leave_entry(context, first)
    assert render_plan(plan(context, ["prepare"])).splitlines() == [
        "prepare   hit    train instances",
        "prepare   miss   val instances: not made yet",
    ]
    assert render_plan(plan(context, ["prepare"], force=())).splitlines() == [
        "prepare   stale  train instances: would be rebuilt, by --force",
        "prepare   miss   val instances: not made yet",
    ]
    assert context.find(first)


@pytest.mark.parametrize(
    ("override", "stage", "text"),
    [
        ("data.embedded.train_images=100", "prepare", "data.embedded.train_images: 800 -> 100"),
        ("prepare.holdout_fraction=0.1", "teachers", "prepare.holdout_fraction: 0.05 -> 0.1"),
        ("crop.size_wh=[64, 64]", "prepare", "crop.size_wh (width over height): 0.75 -> 1"),
        ("teachers.primary.train.epochs=3", "teachers", "teachers.primary.train.epochs: 6 -> 3"),
        ("teachers.senior.mask_drop=0.3", "teachers", "teachers.senior.mask_drop: 0.1 -> 0.3"),
        ("teachers.senior.adapter_lr=0.5", "teachers", "teachers.senior.adapter_lr: "),
        ("teachers.senior.train.lr=0.5", "teachers", "teachers.senior.train.lr: "),
        ("views.augment.scale=0.2", "targets", "views.augment.scale: 0.1 -> 0.2"),
        ("binarize.threshold=0.4", "targets", "binarize.threshold: 0.5 -> 0.4"),
        ("distill.lr=0.5", "distill", "distill.lr: "),
        # The layers and the epochs follow from these settings, and are not listed.
        ("distill.student.network=hrnet_w8_small", "distill", "distill.student.network: hrnet_w24_tiny -> hrnet_w8_small"),
        ("distill.epochs=7", "distill", "distill.epochs: 5 -> 7"),
        ("evaluate.min_keypoint_score=0.5", "evaluate", "evaluate.min_keypoint_score: 0.2 -> 0.5"),
        ("report.worst=3", "report", "report.worst: 8 -> 3"),
        # The results follow from this setting, and are not listed.
        ("distill.lr=0.5", "report", "distill.lr: "),
    ],
)
def test_a_changed_setting_has_the_name_that_the_user_writes(
    finished: Path, override: str, stage: StageName, text: str
) -> None:
    changed = [
        item.why
        for item in plan(make_context(finished, override), [stage])
        if item.why.startswith("the existing entry differs")
    ]
    assert changed
    for why in changed:
        assert why.startswith(f"the existing entry differs in {text}")
        assert "," not in why, "nothing else"


def test_a_changed_teacher_is_named_without_its_hash(finished: Path, tmp_path: Path) -> None:
    context = make_context(tmp_path)
    with_all(context)
    for step in graph.STAGES["teachers"].steps(context)[:1]:
        context.replace(step)
        leave_entry(context, step, content="0" * 64)
    reasons = {item.step.title: item.why for item in plan(context, ["teachers", "targets"]) if item.why}
    assert reasons["senior teacher"] == "the existing entry differs in base"
    assert reasons["targets of the primary teacher, val view 0"] == "the existing entry differs in primary teacher"


def test_changed_teacher_weights_show_the_number_of_epochs(tmp_path: Path) -> None:
    six = ("distill.epochs=6", "distill.finish=0.0")
    context = make_context(tmp_path, *six, "distill.teacher_weight=0.5")
    leave_entry(context, distill.student_step(context, "student"))
    (planned, _) = plan(make_context(tmp_path, *six, "distill.teacher_weight=0.7"), ["distill"])
    # In the first half the primary's share goes from 0.5 to 0.7.
    assert "weights.ground_truth in 6 of the epochs: 0.5 -> 0.3" in planned.why
    assert "weights.primary in 3 of the epochs: 0.5 -> 0.7" in planned.why


def test_another_view_is_not_an_earlier_version_of_a_view(tmp_path: Path) -> None:
    context = with_instances(make_context(tmp_path, "views.count=1"))
    first = next(step for step in graph.STAGES["targets"].steps(context) if step.title == "train view 1")
    leave_entry(context, first)
    more = make_context(tmp_path, "views.count=2", "distill.epochs=2")
    planned = {item.step.title: (item.status, item.why) for item in plan(more, ["targets"])}
    assert planned["train view 1"] == ("hit", "")
    assert planned["train view 2"] == ("miss", "not made yet")
    other = {item.step.title: item.why for item in plan(make_context(tmp_path, "views.seed=5"), ["targets"])}
    assert other["train view 1"] == "the existing entry differs in views.seed: 0 -> 5"


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
def test_different_values_are_shortened_to_different_texts(values: tuple[object, object], shown: list[str]) -> None:
    assert dry_run._short(*values) == shown


def test_the_nearest_entry_is_the_newest_one_with_the_fewest_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(LocalPath(tmp_path))
    step = Step("targets", "targets", "bits", RECIPE)
    assert dry_run.nearest_fields(step, (), ()) == []
    near = [{**RECIPE, "threshold": 0.4}, {**RECIPE, "threshold": 0.3}, {**RECIPE, "threshold": 0.2, "of": {"seed": 1}}]
    for day, recipe in enumerate(near):
        monkeypatch.setattr(draft_module, "provenance", lambda day=day: {"at": f"2024-01-0{day + 1}"})
        make_entry(store, recipe)
    make_entry(store, {"quite": "another"})
    entries = entries_of(store)
    assert dry_run.nearest_fields(step, entries, ()) == [("threshold", 0.5, 0.3)]
    newest = next(entry.entry_id for entry in entries if entry.manifest.recipe.get("threshold") == 0.3)
    assert dry_run.nearest_fields(step, entries, {newest}) == [("threshold", 0.5, 0.4)]


def test_holding_out_other_images_changes_no_key_of_views_and_of_targets_of_given_teachers(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"given")
    given = (f"teachers.primary={{weights: {weights}, network: hrnet_w16_small, train: null}}",)
    homes = [with_all(make_context(tmp_path / "home", *given, *more)) for more in ((), ("prepare.holdout_fraction=0.2",))]
    first, second = ({step.title: step.key for step in targets.steps(context)} for context in homes)
    kept = {title for title in first if first[title] == second[title]}
    assert kept == {title for title in first if "senior" not in title}, "the senior is trained here, on the other images"
