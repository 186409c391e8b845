"""Pixels are sent to the device as bytes, in training and in prediction, and are normalised there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from stages.data.loader import CropLoader
from stages.data.views import draw_views
from stages.inference import Predictor
from stages.networks.hrnet import HRNet, hrnet_small
from stages.training.loop import Worker, train
from storage_schemas.formats.instances import read_instances
from tests.support.plan_samples import make_plan, on_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
    """The kind and shape of every array that becomes a tensor and is sent to a device."""
    made: list[tuple[np.dtype[Any], tuple[int, ...]]] = []
    convert: Callable[[npt.NDArray[Any]], Tensor] = torch.from_numpy

    def record(array: npt.NDArray[Any]) -> Tensor:
        made.append((array.dtype, array.shape))
        return convert(array)

    monkeypatch.setattr(torch, "from_numpy", record)
    return made


def pixels(shipped: list[tuple[np.dtype[Any], tuple[int, ...]]], *, side: int) -> list[np.dtype[Any]]:
    """The arrays of the size of crops: three colours, or masks."""
    return [dtype for dtype, shape in shipped if shape.count(side) == 2]


def test_a_training_ships_images_and_masks_as_bytes(
    tmp_path: Path, shipped: list[tuple[np.dtype[Any], tuple[int, ...]]]
) -> None:
    plan = replace(make_plan(tmp_path, on_labels(1)), feed_mask=True)
    train(replace(plan, network=replace(plan.network, senior=True)), Worker())
    # Two steps of two instances, each with images and masks.
    assert pixels(shipped, side=64) == [np.dtype(np.uint8)] * 4


class _Seen(nn.Module):
    """The inputs of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = HRNet(hrnet_small(8), num_keypoints=17, generator=torch.Generator().manual_seed(0)).eval()
        self.images: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.images.append(image)
        heat: Tensor = self.network(image)
        return heat


def test_teachers_and_evaluated_networks_get_bytes_and_see_them_normalised(
    tmp_path: Path, shipped: list[tuple[np.dtype[Any], tuple[int, ...]]]
) -> None:
    plan = make_plan(tmp_path, on_labels(1))
    instances = read_instances(plan.instances.fetch())
    view = draw_views(instances, 0, seed=0, augment=plan.augment, size_wh=plan.crop_wh)
    loader = CropLoader(instances, plan.images, size_wh=plan.crop_wh, threads=1)
    ((batch,),) = loader.batches([np.arange(2)], [view])
    loader.close()
    assert batch.image_Bhw3.dtype == np.uint8
    network = _Seen()
    Predictor(network, size_wh=plan.crop_wh).heatmaps(batch, flip="hrnet")
    assert pixels(shipped, side=64) == [np.dtype(np.uint8)]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((batch.image_Bhw3 / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(network.images[0].numpy(), expected, atol=1e-5)
    assert np.allclose(network.images[1].numpy(), expected[..., ::-1], atol=1e-5)
