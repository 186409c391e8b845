"""The AP protocol: every field is part of the key, and the sentence names what a reader must know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_settings
from stages.scoring.protocol import GROUND_TRUTH_BOXES, Counts, DecoderChoice, DetectedBoxes, Protocol
from storage_schemas.errors import DataError

PLAIN = Protocol((192, 256), size_divisor=2)
DETECTED = DetectedBoxes(Path("/data/boxes.json"), "0" * 64)


def sentence(protocol: Protocol, *, detected: int | None = None) -> str:
    counts = Counts(images=3, instances=2, detected=detected)
    return protocol.sentence(decoder="dark", student="hrnet_w16", arms=("student", "baseline"), counts=counts)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_wh": (288, 384)},
        {"size_divisor": 1},
        {"boxes": DETECTED},
        {"flip": False},
        {"flip": "hrnet"},
        {"min_keypoint_score": 0.3},
        {"nms_threshold": 0.8},
    ],
)
def test_every_field_changes_the_key_and_the_sentence(change: dict[str, Any]) -> None:
    changed = replace(PLAIN, **change)
    assert changed.as_recipe() != PLAIN.as_recipe()
    assert sentence(changed) != sentence(PLAIN)


def test_a_moved_detections_file_has_the_same_key() -> None:
    moved = replace(PLAIN, boxes=replace(DETECTED, path=Path("/other/name.json")))
    assert moved.as_recipe() == replace(PLAIN, boxes=DETECTED).as_recipe()


def test_the_sentence_has_the_sizes_and_the_counts() -> None:
    assert sentence(PLAIN) == (
        "ground-truth boxes, exact flip test, decoder dark, teachers' input 192x256, "
        "student hrnet_w16 at 96x128, keypoint scores above 0.2, OKS-NMS 0.9, 2 instances on 3 images"
    )


def test_the_sentence_says_which_rows_have_detected_boxes() -> None:
    text = sentence(replace(PLAIN, boxes=DETECTED), detected=7)
    assert text.startswith(f"boxes of the student and baseline from boxes.json, {GROUND_TRUTH_BOXES} for teachers and cached")
    assert text.endswith("2 instances on 3 images, 7 detected boxes")


def test_a_recipe_says_whether_its_boxes_are_annotated() -> None:
    assert Protocol.is_on_ground_truth(PLAIN.as_recipe())
    assert not Protocol.is_on_ground_truth(replace(PLAIN, boxes=DETECTED).as_recipe())


def test_the_defaults_of_the_protocol_are_the_defaults_of_the_settings() -> None:
    settings = load_settings(None)
    assert Protocol.of(settings) == Protocol(settings.crop.size_wh)


@pytest.mark.parametrize(("name", "why"), [("folder", "is not a file"), ("nothing.json", "is missing")])
def test_boxes_that_are_no_file_are_refused_with_the_setting(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as caught:
        DetectedBoxes.of(tmp_path / name)
    assert name in caught.value.seen
    assert why in caught.value.seen
    assert "evaluate.boxes" in caught.value.seen


def test_each_way_of_choosing_a_decoder_has_its_reason() -> None:
    held_out = DecoderChoice("dark", "held_out", ("student",), 70, {"quarter": 0.61, "dark": 0.62})
    assert held_out.reason == "best mean AP of student on 70 held-out training instances: quarter 0.610, dark 0.620"
    assert "evaluate.decoder" in DecoderChoice("dark", "setting").reason
    assert "prepare.holdout_fraction" in DecoderChoice("quarter", "default").reason
