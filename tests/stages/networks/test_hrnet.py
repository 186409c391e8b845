"""HRNet: key names and outputs of the published code, sizes by name, and blocks compared with sums in numpy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.networks.hrnet import BasicBlock, Bottleneck, HRNet, hrnet_small
from stages.networks.spec import architecture
from tests.support.reference_networks import formula_heatmaps
from tests.support.shared_data import shared_data


@pytest.mark.parametrize("name", ["w16", "w32", pytest.param("w48", marks=pytest.mark.slow)])
def test_the_forward_pass_gives_the_published_numbers(name: str) -> None:
    folder = shared_data("hrnet_reference")
    network = architecture(f"hrnet_{name}").build(num_keypoints=17)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    heat = formula_heatmaps(network, folder, shapes, dict(zip(shapes, shapes, strict=True))).numpy()
    expected = np.load(folder / "forward.npz")[name]
    assert heat.shape == expected.shape == (1, 17, 64, 48)
    assert np.abs(heat - expected).max() <= 1e-4 * (expected.max() - expected.min())


@pytest.mark.parametrize("name", ["w16", "w32", "w48"])
def test_names_and_shapes_are_those_of_the_published_weights(name: str) -> None:
    shapes = json.loads((shared_data("hrnet_reference") / "state_dict_shapes.json").read_text())[name]
    with torch.device("meta"):
        network = architecture(f"hrnet_{name}").build(num_keypoints=17)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == shapes


def test_known_keys_exist_and_unused_outputs_do_not() -> None:
    with torch.device("meta"):
        keys = set(architecture("hrnet_w32").build(num_keypoints=17).state_dict())
    assert len(keys) == 1754
    assert {
        "layer1.0.downsample.1.running_var",
        "transition1.1.0.0.weight",
        "transition3.3.0.1.bias",
        "stage2.0.fuse_layers.1.0.0.0.weight",
        "stage3.3.fuse_layers.2.0.1.1.weight",
        "stage4.2.branches.3.3.conv2.weight",
        "stage4.2.fuse_layers.0.3.0.weight",
        "final_layer.bias",
    } <= keys
    assert not any(
        key.startswith(("stage4.2.fuse_layers.1", "stage4.2.fuse_layers.2", "stage4.2.fuse_layers.3")) for key in keys
    )


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("hrnet_w48", 63.596),
        ("hrnet_w32", 28.536),
        ("hrnet_w24", 16.245),
        ("hrnet_w18", 9.318),
        ("hrnet_w16", 7.446),
        ("hrnet_w8", 2.139),
        ("hrnet_w16_small", 1.391),
        # Not published; counted convolution by convolution.
        ("hrnet_w16_tiny", 0.738),
        ("hrnet_w32_tiny", 2.748),
    ],
)
def test_parameter_counts_are_the_known_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = architecture(name).build(num_keypoints=17)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert round(count, 3) == millions


def test_fewer_bottlenecks_save_exactly_their_weights() -> None:
    with torch.device("meta"):
        four, two = (HRNet(replace(hrnet_small(8), stem_blocks=count), num_keypoints=17) for count in (4, 2))
    convolutions = 256 * 64 + 9 * 64 * 64 + 64 * 256
    norms = 2 * (64 + 64 + 256)
    saved = sum(p.numel() for p in four.parameters()) - sum(p.numel() for p in two.parameters())
    assert saved == 2 * (convolutions + norms)


@pytest.mark.parametrize("size_hw", [(32, 32), (64, 96), (160, 32)])
def test_multiples_of_32_give_a_quarter_of_the_size(size_hw: tuple[int, int]) -> None:
    network = HRNet(replace(hrnet_small(8), in_channels=4), num_keypoints=5).eval()
    with torch.no_grad():
        heat = network(torch.zeros(2, 4, *size_hw))
    assert heat.shape == (2, 5, size_hw[0] // 4, size_hw[1] // 4)


def _lively(network: nn.Module) -> nn.Module:
    """Weights and statistics far from their initial values."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            scale = 0.1 if value.ndim == 4 else 0.3
            noise = scale * torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return network


def test_channels_last_gives_the_same_heatmaps() -> None:
    network = _lively(HRNet(hrnet_small(8), num_keypoints=17)).eval()
    image = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = network(image)
        last = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert plain.std() > 0.01
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)


def test_the_first_weights_are_small_and_the_same_for_the_same_seed() -> None:
    first, again, other = (
        HRNet(hrnet_small(8), num_keypoints=17, generator=torch.Generator().manual_seed(seed)).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert abs(first["stage4.0.branches.3.0.conv1.weight"].std().item() - 0.001) < 2e-5
    assert torch.equal(first["bn1.weight"], torch.ones(64))
    assert torch.equal(first["final_layer.bias"], torch.zeros(17))


def _conv3x3(x_CHW: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with zero padding by its definition: nine shifted products."""
    padded = np.pad(x_CHW, ((0, 0), (1, 1), (1, 1)))
    height, width = x_CHW.shape[1:]
    out = np.zeros((weight.shape[0], height, width))
    for dy in range(3):
        for dx in range(3):
            out += np.einsum("oc,chw->ohw", weight[:, :, dy, dx], padded[:, dy : dy + height, dx : dx + width])
    return out


def test_a_basic_block_is_two_convolutions_beside_the_identity() -> None:
    block = BasicBlock(2).double().eval()
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 2, 2, 3, 3))
    image = rng.normal(size=(2, 4, 5))
    with torch.no_grad():
        block.conv1.weight.copy_(torch.from_numpy(first))
        block.conv2.weight.copy_(torch.from_numpy(second))
        block.bn1.running_mean.fill_(0.25)  # type: ignore[union-attr]
        block.bn2.running_var.fill_(4.0)  # type: ignore[union-attr]
        block.bn2.weight.fill_(3.0)
        block.bn2.bias.fill_(-0.5)
        got = block(torch.from_numpy(image)[None])[0].numpy()
    inner = np.maximum((_conv3x3(image, first) - 0.25) / np.sqrt(1 + 1e-5), 0)
    expected = np.maximum(3 * _conv3x3(inner, second) / np.sqrt(4 + 1e-5) - 0.5 + image, 0)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_a_bottleneck_projects_where_the_channels_change() -> None:
    block = Bottleneck(1, 1).double().eval()
    with torch.no_grad():
        for convolution, value in ((block.conv1, 2.0), (block.conv2, 1.0), (block.conv3, 0.5)):
            convolution.weight.fill_(value)
        assert block.downsample is not None
        block.downsample[0].weight.fill_(-1.0)  # type: ignore[operator]
        got = block(torch.ones(1, 1, 3, 3, dtype=torch.float64))
    # Twice one, then the number of pixels of the 3x3 window that are inside the image, half of that, minus the projected one.
    norm = 1 / np.sqrt(1 + 1e-5)
    neighbours = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    expected = 2 * neighbours * 0.5 * norm**3 - norm
    np.testing.assert_allclose(got[0].numpy(), np.broadcast_to(expected, (4, 3, 3)), atol=1e-12)
    assert Bottleneck(256, 64).downsample is None
