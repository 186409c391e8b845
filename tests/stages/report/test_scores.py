from __future__ import annotations

from pathlib import Path

import pytest

from stages.base import Context, Step
from stages.networks.spec import NetworkSpec
from stages.report import scores
from stages.report.page.content import AP_COLUMNS, Cost
from stages.report.scores import Compared, by_decoder, table
from stages.settings import Settings
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Entry
from tests.support.buckets import local

SCORES = {decoder: dict.fromkeys(AP_COLUMNS, 0.5) for decoder in ("quarter", "dark", "centroid", "soft_argmax")}

BITS = {"scores_from_bits": SCORES["centroid"], "AP_from_bits": 0.5, "AP_float_quarter": 0.5, "AP_float_dark": 0.5}


def context(home: LocalPath, boxes: Path | None) -> Context:
    settings = Settings.model_validate(
        {
            "name": "small",
            "data": {"embedded": {}},
            "teachers": {"primary": {"network": "hrnet_w16_small", "train": {"epochs": 1}}},
            "distill": {"student": {"network": "hrnet_w8_small"}, "epochs": 4},
            "evaluate": {"boxes": boxes},
        }
    )
    return Context(settings, home, "cpu")


def entry(context: Context, boxes: str | None) -> Entry:
    with context.store.draft("evaluations", {"protocol": {"boxes": boxes}}) as draft:
        if isinstance(draft, Entry):
            return draft
        assert isinstance(draft, Draft)
        local(draft.folder / "x").write_bytes(b"x")
        return draft.commit(["x"], measured={**SCORES, **BITS})


def compared(context: Context) -> list[Compared]:
    """A teacher on annotated boxes, and a student on those of the settings."""
    network, spec = Step("teachers", "teachers", "network", {}), NetworkSpec(network="hrnet_w8_small")
    student = None if context.settings.evaluate.boxes is None else "0123abcd"
    return [
        Compared("primary", entry(context, None), network, spec, (64, 64), scores._label(context)),
        Compared("student", entry(context, student), network, spec, (64, 64)),
    ]


@pytest.fixture(autouse=True)
def _others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_cost", lambda *_: Cost(0, 0, 1.0, (64, 64)))
    monkeypatch.setattr(scores, "_validation_targets", lambda context, _: entry(context, None))


def test_with_detections_every_row_on_annotated_boxes_says_so(tmp_path: LocalPath) -> None:
    run = context(tmp_path, tmp_path / "boxes.json")
    networks = compared(run)
    names = [row.name for row in table(run, networks, "quarter")]
    assert names == [
        "Primary teacher (PT), ground-truth boxes",
        "Cached targets of PT, ground-truth boxes",
        "Cached targets of ST, ground-truth boxes",
        "Student",
    ]
    assert [row.name for row in by_decoder(networks)] == [names[0], names[3]]
    assert [row.name for row in scores.targets(run)] == ["PT, ground-truth boxes", "ST, ground-truth boxes"]


def test_without_detections_no_row_differs_from_the_protocol(tmp_path: LocalPath) -> None:
    run = context(tmp_path, None)
    names = [row.name for row in table(run, compared(run), "quarter")]
    assert names == ["Primary teacher (PT)", "Cached targets of PT", "Cached targets of ST", "Student"]


def test_an_instance_has_its_own_prediction_if_the_boxes_are_annotated(tmp_path: LocalPath) -> None:
    assert [item.by_instance for item in compared(context(tmp_path, tmp_path / "boxes.json"))] == [True, False]
    assert [item.by_instance for item in compared(context(tmp_path, None))] == [True, True]
