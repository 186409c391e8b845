"""Settings whose parts must agree: networks and how they are described."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.settings import DistillSettings, NetworkSource, TeacherSource, TrainSettings


def test_a_network_has_a_name_unless_its_weights_are_a_whole_network() -> None:
    assert not NetworkSource(network="hrnet_w8_small", weights=Path("/w/w8.pth")).is_whole
    assert NetworkSource(weights=Path("/w/teacher.pt2")).is_whole
    for wrong in ({}, {"weights": Path("/w/w8.pth")}, {"weights": Path("/w/teacher.onnx"), "network": "hrnet_w8_small"}):
        with pytest.raises(ValidationError, match="network"):
            NetworkSource.model_validate(wrong)


def test_a_teacher_is_either_given_or_trained() -> None:
    train = TrainSettings(epochs=1)
    assert TeacherSource(network="hrnet_w8_small", train=train).weights is None
    for wrong in (
        {"network": "hrnet_w8_small"},
        {"network": "hrnet_w8_small", "weights": Path("/w/w8.pth"), "train": train},
        {"weights": Path("/w/teacher.pt2"), "train": train},
    ):
        with pytest.raises(ValidationError, match="'train'"):
            TeacherSource.model_validate(wrong)


def test_a_student_is_described_as_a_teacher_is_and_starts_from_random_weights() -> None:
    assert DistillSettings(student=NetworkSource(network="hrnet_w8_small")).student.network == "hrnet_w8_small"
    with pytest.raises(ValidationError, match=r"student.weights is '/w/w8.pth'"):
        DistillSettings(student=NetworkSource(network="hrnet_w8_small", weights=Path("/w/w8.pth")))


def test_without_any_label_the_teachers_must_teach_in_each_epoch() -> None:
    assert DistillSettings(labelled_fraction=0, baseline=False).labelled_fraction == 0
    with pytest.raises(ValidationError, match="nothing to learn for the baseline"):
        DistillSettings(labelled_fraction=0)
    for changes in ({"schedule": "none"}, {"finish": 0.3}, {"teacher_weight": 0.0}):
        with pytest.raises(ValidationError, match="the teachers must teach in each epoch"):
            DistillSettings.model_validate({"labelled_fraction": 0, "baseline": False, **changes})
