from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages import distill
from stages.base import Context, Step
from stages.findings import Finding, measured_findings
from stages.report import summary
from stages.settings import Settings
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.buckets import local

STUDENT = Step("distill", "students", "student", {"of": "student"})
WAITING = Step("evaluate", "evaluations", "AP of the student", {"of": "pending"}, (STUDENT,))


def context(home: LocalPath) -> Context:
    settings = Settings.model_validate(
        {
            "name": "small",
            "data": {"embedded": {}},
            "teachers": {"primary": {"network": "hrnet_w16_small", "train": {"epochs": 1}}},
            "distill": {"student": {"network": "hrnet_w8_small"}, "epochs": 4},
        }
    )
    return Context(settings, home, "cpu")


def make(context: Context, step: Step, **measured: Any) -> None:  # noqa: ANN401 (any figures of a stage)
    with context.store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        local(draft.folder / "weights.safetensors").write_bytes(step.title.encode())
        draft.commit(["weights.safetensors"], measured=measured)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Two entries with one title, as further binarizations have; the experiment is these, the student and its scores."""
    found = [Step("targets", "targets", "targets of the primary teacher", {"threshold": value}) for value in (0.5, 0.4)]
    monkeypatch.setattr(summary, "entries_of", lambda _: [*found, STUDENT, WAITING])
    monkeypatch.setattr(distill, "student_step", lambda *_: STUDENT)
    return found


def test_every_entry_that_is_there_is_named_once_by_title(tmp_path: LocalPath, targets: list[Step]) -> None:
    run = context(tmp_path)
    for step in (*targets, STUDENT):
        make(run, step)
    first, second = targets
    entries = summary.summary(run)["entries"]
    assert entries == {
        "targets of the primary teacher": f"targets/{first.key}",
        f"targets of the primary teacher ({second.key})": f"targets/{second.key}",
        "student": f"students/{STUDENT.key}",
    }
    assert all((tmp_path / "store" / entry_id / "manifest.json").is_file() for entry_id in entries.values())


def test_the_weights_are_named_once_they_are_there(tmp_path: LocalPath, targets: list[Step]) -> None:
    run = context(tmp_path)
    make(run, targets[0])
    assert "weights" not in summary.summary(run)
    assert list(summary.summary(run)["entries"].values()) == [f"targets/{targets[0].key}"]
    make(run, STUDENT)
    weights = Path(summary.summary(run)["weights"])
    assert weights.is_absolute()
    assert weights.read_bytes() == b"student"


def test_what_this_run_did_is_told_apart_from_what_is_there(tmp_path: LocalPath, targets: list[Step]) -> None:
    run = context(tmp_path)
    assert summary.summary(run)["this_run"] == {"seconds": {}, "teacher_forwards": {"primary": 0, "senior": 0}}
    run.counters["teacher_forwards.primary"] += 326
    run.seconds["targets"] = 1.234
    assert summary.summary(run)["this_run"] == {
        "seconds": {"targets": 1.23},
        "teacher_forwards": {"primary": 326, "senior": 0},
    }


def test_of_an_experiment_that_has_not_begun_nothing_is_named(tmp_path: LocalPath) -> None:
    found = summary.summary(context(tmp_path))
    assert found["entries"] == {}
    assert "weights" not in found


def test_findings_of_entries_are_listed_once(tmp_path: LocalPath, targets: list[Step]) -> None:
    finding = Finding(kind="faint", seen="no map has a peak", remedy="Lower it", count=3, of=3, example="1.jpg")
    run = context(tmp_path)
    for step in targets:
        make(run, step, **measured_findings([finding]))
    make(run, STUDENT, **measured_findings([]))
    assert summary.findings(run) == [finding]
    assert summary.summary(run)["warnings"] == [
        {"kind": "faint", "seen": "no map has a peak", "remedy": "Lower it", "count": 3, "of": 3, "example": "1.jpg"}
    ]


def test_a_finding_is_logged_once_in_a_run(tmp_path: LocalPath, caplog: pytest.LogCaptureFixture) -> None:
    finding = Finding(kind="faint", seen="no map has a peak", remedy="Lower it", count=3, of=3, example="1.jpg")
    run = context(tmp_path)
    run.warn([finding])
    run.warn([finding])
    assert caplog.messages == ["Warning: no map has a peak. Lower it."]
