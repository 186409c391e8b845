"""What networks are fed: the change of the normalised image, and what files of each layout want."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.networks.input_format import BGR, STANDARD, InputFormat, feed, format_of_file
from stages.networks.load import format_of, load_network
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec, architecture
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.paths.local import LocalPath

LITE = InputFormat("rgb", (127 / 255,) * 3, (128 / 255,) * 3)


class _Same(nn.Module):
    def forward(self, image_B3hw: Tensor) -> Tensor:
        """The input."""
        return image_B3hw


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (STANDARD, [(200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225]),
        # The authors of SimpleBaseline normalise blue with the mean of red.
        (BGR, [(50 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225]),
        (LITE, [(200 - 127) / 128, (100 - 127) / 128, (50 - 127) / 128]),
        (InputFormat("bgr", (0, 0, 0), (1 / 255, 1 / 255, 1 / 255)), [50, 100, 200]),
    ],
)
def test_each_channel_is_normalised_as_wanted(wanted: InputFormat, expected: list[float]) -> None:
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    fed = feed(_Same(), wanted)(normalize(image))
    for channel, value in enumerate(expected):
        np.testing.assert_allclose(fed[:, channel].numpy(), value, atol=2e-5 * max(1, abs(value)))


def test_a_form_is_read_back_from_a_description() -> None:
    for form in (STANDARD, BGR, LITE):
        assert InputFormat.described(form.description) == form
    assert STANDARD.description == {}


def _file(folder: Path, state: dict[str, Tensor], *, prefix: str = "") -> Path:
    path = folder / "weights.pth"
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("network", "prefix", "form"),
    [
        ("simple_resnet18", "", BGR),
        ("simple_resnet18", "module.", BGR),
        ("lpn50", "", BGR),
        ("hourglass_1x64", "", BGR),
        ("hourglass_newell_1x64", "model.", STANDARD),
        ("hrnet_w8_tiny", "", STANDARD),
        ("lite_hrnet_18", "", STANDARD),
    ],
)
def test_the_layout_of_the_authors_tells_the_form(network: str, prefix: str, form: InputFormat, tmp_path: LocalPath) -> None:
    state = architecture(network).build(num_keypoints=17).state_dict()
    assert format_of_file(network, _file(tmp_path, state, prefix=prefix)) == form


def test_mmpose_and_torchvision_feed_rgb(tmp_path: LocalPath) -> None:
    state = architecture("simple_resnet18").build(num_keypoints=17).state_dict()
    heads = ("final_layer", "deconv_layers")
    mmpose = {f"head.{name}" if name.startswith(heads) else f"backbone.{name}": value for name, value in state.items()}
    assert format_of_file("simple_resnet18", _file(tmp_path, mmpose)) == STANDARD
    torchvision = {name: value for name, value in state.items() if not name.startswith(heads)}
    assert format_of_file("simple_resnet18", _file(tmp_path, torchvision)) == STANDARD


def test_a_file_of_this_project_says_its_form_itself(tmp_path: LocalPath) -> None:
    network = architecture("simple_resnet18").build(num_keypoints=17)
    for form in (STANDARD, LITE, BGR):
        path = tmp_path / "weights.safetensors"
        save_weights(path, network, {"network": "simple_resnet18", **form.description})
        assert format_of_file("simple_resnet18", path) == form
        for spec in (NetworkSpec("simple_resnet18", weights=path), NetworkSpec("simple_resnet18", checkpoint=path)):
            assert format_of(spec) == form
            assert format_of(replace(spec, input=LITE)) == LITE


def test_a_loaded_network_is_fed_what_its_file_wants(tmp_path: LocalPath) -> None:
    network = architecture("simple_resnet18").build(num_keypoints=3, generator=torch.Generator().manual_seed(0))
    for name, value in network.state_dict().items():
        if value.ndim == 4:
            value.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(len(name)))
    path = _file(tmp_path, network.state_dict())
    loaded = load_network(NetworkSpec("simple_resnet18", weights=path), size_wh=(64, 64), num_keypoints=3)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network.eval()(normalize(image.flip(1)))
        assert torch.allclose(loaded(normalize(image)), expected, rtol=1e-4, atol=1e-2)
        assert not torch.allclose(network(normalize(image)), expected, rtol=1e-2, atol=1)
