"""A training on a few small images, for tests of the loop and of Ray Train's workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.data.windows import ImageSource
from stages.networks.spec import NetworkSpec
from stages.settings import AugmentSettings, TrainSettings
from stages.training.curve import METRICS
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.schedule import Weights
from storage_schemas.formats.instances import write_instances
from storage_schemas.paths.local import LocalPath
from tests.support.instance_samples import make_instances, mask_rle, write_images

CROP_WH = (64, 64)


def make_plan(at: Path, epochs: Sequence[EpochPlan], *, images: Sequence[int] = (1, 2, 3, 4)) -> TrainingPlan:
    folder = LocalPath(at)
    image_folder = folder / "images"
    image_folder.mkdir(parents=True)
    facts = write_images(image_folder, sorted(set(images)))
    mask = mask_rle(np.ones((64, 64), dtype=bool))
    write_instances(folder / "instances.parquet", make_instances(images, facts=facts, masks=[mask] * len(images)))
    out = folder / "out"
    out.mkdir()
    return TrainingPlan(
        stage="test",
        name="small",
        network=NetworkSpec(network="hrnet_w8_small"),
        instances=folder / "instances.parquet",
        images=ImageSource(image_folder),
        folder=out,
        crop_wh=CROP_WH,
        size_divisor=1,
        epochs=epochs,
        train=TrainSettings(epochs=len(epochs), batch_size=2, optimizer="adamw", lr=1e-3, lr_schedule="one_cycle"),
        precision="float32",
        device="cpu",
        seed=0,
        views_seed=0,
        augment=AugmentSettings(),
    )


BARE_PLAN = TrainingPlan(
    stage="test",
    name="bare",
    network=NetworkSpec(),
    instances=LocalPath("not read"),
    images=ImageSource(LocalPath("not read")),
    folder=LocalPath("not written"),
    crop_wh=CROP_WH,
    size_divisor=1,
    epochs=(),
    train=TrainSettings(batch_size=8, lr=1e-2),
    precision="float32",
    device="cpu",
    seed=0,
    views_seed=0,
    augment=AugmentSettings(),
)
"""A plan for parts of a training that read no file."""


def on_labels(count: int) -> list[EpochPlan]:
    return [EpochPlan(view=epoch + 1, weights=Weights(1.0)) for epoch in range(count)]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
