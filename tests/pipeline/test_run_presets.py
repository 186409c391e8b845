"""Each preset for COCO runs from images to AP, with few people, tiny teachers and two epochs."""

from __future__ import annotations

import json

import pytest

from pipeline.config.load import load_settings, preset_names
from pipeline.run import main
from stages.data.synthetic.dataset import SyntheticSpec, draw_dataset
from storage_schemas.paths.local import LocalPath
from tests.support.warm_ray import run_here

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("warm")]

PRESETS = [name for name in preset_names() if name.startswith("coco_")]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> LocalPath:
    """Drawn people in the layout of COCO."""
    root = LocalPath(tmp_path_factory.mktemp("coco"))
    draw_dataset(root / "drawn", SyntheticSpec(train_images=10, val_images=4, seed=0))
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "drawn" / "annotations" / f"{split}.json").rename(root / "annotations" / f"person_keypoints_{split}2017.json")
        (root / f"{split}2017").symlink_to(root / "drawn" / "images")
    return root


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_from_images_to_ap(
    coco: LocalPath, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    monkeypatch.setenv("COCO_ROOT", str(coco))
    monkeypatch.setenv("ODKD_WEIGHTS", str(coco))
    home = LocalPath(tmp_path_factory.mktemp("home")) / preset
    train = {"epochs": 1, "batch_size": 8}
    changes = {
        "teachers.primary": {"network": "hrnet_w8_tiny", "train": train},
        "teachers.senior.train": train,
        "teachers.senior.control": False,
        "views.count": 2,
        "distill.epochs": 2,
        "distill.batch_size": 8,
        "distill.lr_drop_epochs": None,
        "distill.warmup_steps": 2,
        "prepare.holdout_fraction": 0.2,
    }
    words = [f"--set={name}={json.dumps(value)}" for name, value in changes.items()]
    ran = run_here(main, "--stage", "all", "--config", preset, "--home", str(home), *words)
    assert ran.status == 0, ran.err
    figures = json.loads((home / "runs" / preset / "metrics.json").read_text())
    for arm in ("student", "baseline"):
        assert 0 <= figures["evaluate"][arm]["AP"] <= 1
    assert load_settings(preset).distill.student.network in figures["evaluate"]["protocol"]
