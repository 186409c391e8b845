"""Programs of torch.export that return containers, and programs that were exported in training mode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.networks.exported import load_exported
from stages.networks.load import check_network
from storage_schemas.errors import WeightsError


class _Returning(nn.Module):
    """A network whose output is made by a function."""

    def __init__(self, output: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        self.output = output

    def forward(self, image: torch.Tensor) -> object:
        return self.output(self.conv(image))


def _exported(network: nn.Module, path: Path) -> Path:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize(
    "output",
    [lambda heat: {"heatmaps": heat}, lambda heat: OrderedDict(out=heat), lambda heat: [heat], lambda heat: ({"a": heat},)],
)
def test_a_container_of_one_tensor_is_that_tensor(output: Callable[[torch.Tensor], object], tmp_path: Path) -> None:
    network = _Returning(output).eval()
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loaded = load_exported(_exported(network, tmp_path / "named.pt2"))
    assert torch.equal(loaded(image), network.conv(image))


def test_a_dict_of_two_tensors_is_refused_with_its_names(tmp_path: Path) -> None:
    path = _exported(_Returning(lambda heat: {"heatmaps": heat, "scores": heat}).eval(), tmp_path / "two.pt2")
    with pytest.raises(WeightsError, match=r"gives a dict with the names \['heatmaps', 'scores'\]"):
        check_network(load_exported(path), size_wh=(32, 32), num_keypoints=2, source="two.pt2")


def test_names_of_a_dict_that_could_be_code_are_refused(tmp_path: Path) -> None:
    path = _exported(_Returning(lambda heat: {"heat'); open('x": heat}).eval(), tmp_path / "named.pt2")
    with pytest.raises(WeightsError, match="no code of the file was run"):
        load_exported(path)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm2d(16), nn.Sequential(nn.BatchNorm2d(16), nn.Dropout(0.1))])
def test_a_program_that_was_exported_in_training_mode_is_refused(layer: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), layer, nn.ReLU(), nn.Conv2d(16, 2, 3, 2, 1))
    network.train()
    path = _exported(network, tmp_path / "training.pt2")
    with pytest.raises(
        WeightsError, match=r"gives other heatmaps for the same image (a second time|in another batch)"
    ) as caught:
        check_network(load_exported(path), size_wh=(32, 32), num_keypoints=2, source=str(path))
    assert "call eval()" in caught.value.allowed
    good = _exported(network.eval(), tmp_path / "good.pt2")
    check_network(load_exported(good), size_wh=(32, 32), num_keypoints=2, source=str(good))
