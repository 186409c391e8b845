"""What networks cost by their names: the published figures, each with its unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.load import load_settings
from pipeline.costs import network_costs


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCO_ROOT", "ODKD_WEIGHTS"):
        monkeypatch.setenv(name, "/data")


def test_parameters_and_multiply_adds_are_given_in_both_units() -> None:
    # Published: HRNet-W32 28.5 M and 7.10 GFLOPs; 7.64 multiply-adds in units of 1e9.
    primary, senior, student = network_costs(load_settings("coco_hrnet_w16"), num_keypoints=17)
    w32 = "hrnet_w32 at 192x256: 28.536 M parameters, 7.645 GMac (1e9), 7.120 in HRNet's unit (1024^3)"
    assert primary == f"primary   {w32}"
    assert senior == f"senior    {w32}"
    assert student == "student   hrnet_w16 at 192x256: 7.446 M parameters, 2.749 GMac (1e9), 2.560 in HRNet's unit (1024^3)"


def test_the_students_input_is_divided_and_whole_networks_are_left_out(tmp_path: Path) -> None:
    weights = {"weights": str(tmp_path / "teacher.pt2"), "network": None}
    changes = [f"teachers.primary={weights}".replace("None", "null"), "distill.student.network=lpn50", "distill.size_divisor=2"]
    (student,) = network_costs(load_settings("coco_hrnet_w16", changes), num_keypoints=17)
    assert student.startswith("student   lpn50 at 96x128: 2.911 M parameters, 0.26")
