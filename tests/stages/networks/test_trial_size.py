"""A program that would fill the memory is refused before it runs; others are not touched by the trial."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.networks.exported import load_exported
from stages.networks.load import check_network
from stages.networks.trial_size import refuse_huge_tensors
from storage_schemas.errors import WeightsError

SHAPE = (3, 3, 32, 32)


class _Huge(nn.Module):
    """Heatmaps of the right size, with a large tensor on the way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.conv(image)
        return heat.repeat(1, 100_000, 10, 10).sum(dim=(1, 2, 3), keepdim=True) + heat


def _exported(network: nn.Module, path: Path) -> Path:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(2, *SHAPE[1:]),), dynamic_shapes=shapes), path)
    return path


def _padded(path: Path) -> Path:
    """A small program whose padding is then changed in the file to 40,000 pixels on each side."""
    network = nn.Conv2d(3, 2, 4, stride=4, padding=7)
    stream = io.BytesIO(_exported(network, path).read_bytes())
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if "/models/" in info.filename:
                text = json.dumps(json.loads(data))
                assert "[7, 7]" in text
                data = text.replace("[7, 7]", "[40000, 40000]").encode()
            new.writestr(info.filename, data)
    return path


@pytest.mark.parametrize("case", ["changed padding", "repeated"])
def test_a_program_that_asks_for_gigabytes_is_refused_before_it_runs(case: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.pt2"
    network = load_exported(_padded(path) if case == "changed padding" else _exported(_Huge(), path))
    with pytest.raises(WeightsError, match=r"huge\.pt2' asks for a tensor of \d{9,} values for 3x3x32x32 images"):
        check_network(network, size_wh=(32, 32), num_keypoints=2, source=str(path))


def test_a_good_program_computes_the_same_after_the_trial(tmp_path: Path) -> None:
    network = load_exported(_exported(nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.BatchNorm2d(2)), tmp_path / "good.pt2"))
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(image)
        refuse_huge_tensors(network, SHAPE, source="good.pt2")
        assert torch.equal(network(image), before)
    assert all(type(parameter) is nn.Parameter for parameter in network.parameters())


def test_what_the_trial_cannot_run_is_left_to_the_real_run() -> None:
    class Odd(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * float(image.sum())

    network, image = Odd(), torch.ones(SHAPE)
    refuse_huge_tensors(network, SHAPE, source="odd")
    assert torch.equal(network(image), image * image.numel())
