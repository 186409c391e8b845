"""The COCO keypoint results file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.scoring.coco_results import coco_results, write_results


def test_results_have_the_fields_of_coco_tools_without_a_box(tmp_path: Path) -> None:
    """Given ``bbox``, loadRes computes the area from it instead of the keypoints, which changes AP by size."""
    keypoints = np.full((2, 17, 3), 1.23456, np.float32)
    results = coco_results(np.array([7, 9]), np.array([0.25, 0.5]), keypoints)
    write_results(tmp_path / "results.json", results)
    read = json.loads((tmp_path / "results.json").read_text())
    assert [set(record) for record in read] == [{"image_id", "category_id", "keypoints", "score"}] * 2
    assert read[1] == {"image_id": 9, "category_id": 1, "keypoints": [1.235] * 51, "score": 0.5}


def test_results_with_nan_raise_and_write_no_file(tmp_path: Path) -> None:
    keypoints = np.full((1, 17, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(tmp_path / "results.json", coco_results(np.array([7]), np.array([0.25]), keypoints))
    assert not (tmp_path / "results.json").exists()
