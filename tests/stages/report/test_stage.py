from __future__ import annotations

import pytest

from stages.base import Context, Step
from stages.report import stage as report
from stages.report.page.content import Phase
from stages.report.sources import phases
from stages.settings import Settings
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.page_sample import make_page


def context(home: LocalPath, *, name: str = "small", **distill: str | float) -> Context:
    settings = Settings.model_validate(
        {
            "name": name,
            "data": {"embedded": {}},
            "teachers": {"primary": {"network": "hrnet_w16_small", "train": {"epochs": 1}}},
            "distill": {"student": {"network": "hrnet_w8_small"}, "epochs": 4, **distill},
        }
    )
    return Context(settings, home, "cpu")


def test_a_page_waits_until_all_that_it_shows_is_there(tmp_path: LocalPath) -> None:
    (step,) = report.steps(context(tmp_path))
    assert step.kind == "reports"
    assert {waited.stage for waited in step.waits_for} == {"prepare", "teachers", "targets", "distill", "evaluate"}


def test_whatever_the_page_shows_makes_another_page(tmp_path: LocalPath) -> None:
    variants = [
        context(tmp_path),
        context(tmp_path, name="other"),
        context(tmp_path, schedule="together"),
        context(tmp_path, lr=0.5),
    ]
    keys = [step.key for variant in variants for step in report.steps(variant)]
    assert len(set(keys)) == len(variants)
    assert [step.key for step in report.steps(context(tmp_path))] == keys[:1]


def test_the_page_is_copied_into_the_run_whether_it_was_made_or_found(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step("report", "reports", "report", {"made_from": []})
    monkeypatch.setattr(report, "steps", lambda _: [step])
    monkeypatch.setattr(report, "_page", lambda _: make_page())
    first, second = context(tmp_path), context(tmp_path, name="second")
    for run in (first, second):
        run.run_dir.make_folders()
    report.publish(first)
    assert not (first.run_dir / report.REPORT).exists()
    report.make(first, [step])
    report.publish(first)
    report.publish(second)
    pages = [local(run.run_dir / report.REPORT).read_text(encoding="utf-8") for run in (first, second)]
    assert pages[0] == pages[1]
    assert pages[0].startswith("<!doctype html>")


def test_a_page_of_other_settings_is_taken_out_of_the_run_and_comes_back_with_them(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(report, "steps", lambda given: [Step("report", "reports", "report", {"lr": given.settings.distill.lr})])
    monkeypatch.setattr(report, "_page", lambda _: make_page())
    old, new = context(tmp_path), context(tmp_path, lr=0.5)
    old.run_dir.make_folders()
    shown = old.run_dir / report.REPORT
    report.make(old, report.steps(old))
    report.publish(old)
    assert shown.exists()
    report.publish(new)
    assert not shown.exists()
    assert f"removed {shown}" in caplog.text
    report.publish(new)
    assert caplog.text.count(f"removed {shown}") == 1
    report.publish(old)
    assert shown.exists()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("primary_then_senior", [Phase(1, 2, "PT", "primary"), Phase(3, 4, "ST", "senior")]),
        ("senior_then_primary", [Phase(1, 2, "ST", "senior"), Phase(3, 4, "PT", "primary")]),
        ("together", [Phase(1, 4, "PT and ST", "other")]),
        ("none", [Phase(1, 4, "labels alone", "baseline")]),
        ("blend", [Phase(1, 1, "PT", "primary"), Phase(2, 3, "PT and ST", "other"), Phase(4, 4, "ST", "senior")]),
    ],
)
def test_the_phases_are_the_stretches_with_the_same_teachers(tmp_path: LocalPath, schedule: str, expected: list[Phase]) -> None:
    assert phases(context(tmp_path, schedule=schedule)) == expected
