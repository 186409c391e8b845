"""Predicted poses as a COCO keypoint results file. Shape letters: N instances, K keypoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["coco_results", "write_results"]

_PERSON = 1


def coco_results(
    image_id_N: npt.NDArray[np.int64], score_N: npt.NDArray[np.float64], keypoints_NK3: npt.NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Records of a COCO keypoint results file; without ``bbox``, since tools would take the instance's area from it."""
    return [
        {
            "image_id": int(image_id),
            "category_id": _PERSON,
            "keypoints": [round(float(value), 3) for value in keypoints.reshape(-1)],
            "score": float(score),
        }
        for image_id, score, keypoints in zip(image_id_N, score_N, keypoints_NK3, strict=True)
    ]


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Write a COCO results file."""
    path.write_text(json.dumps(results, allow_nan=False))
