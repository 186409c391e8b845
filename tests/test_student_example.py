"""The Python example of docs/student.md runs as it is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.config.load import load_settings
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from storage_schemas.formats.checkpoints import save_weights

PAGE = Path(__file__).resolve().parents[1] / "docs" / "student.md"


def test_the_example_finds_the_keypoints_of_one_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    settings = load_settings("demo")
    assert f"size_wh={settings.crop.size_wh}" in block
    assert f'network="{settings.distill.student.network}"' in block
    assert settings.distill.size_divisor == 1
    network = load_network(NetworkSpec(settings.distill.student.network), size_wh=(96, 128), num_keypoints=17)
    save_weights(tmp_path / "weights.safetensors", network, {})
    run = tmp_path / ".odkd" / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"weights": str(tmp_path / "weights.safetensors")}))
    cv2.imwrite(str(tmp_path / "person.jpg"), np.full((300, 200, 3), 128, np.uint8))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["keypoints"].shape == (1, 17, 3)
    assert np.isfinite(names["keypoints"]).all()
