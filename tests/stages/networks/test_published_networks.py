"""The students and teachers beside HRNet: key names, outputs and sizes of the published code, and one output a stack."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from stages.networks.profile import profile
from stages.networks.spec import architecture
from tests.support.reference_networks import formula_heatmaps
from tests.support.shared_data import shared_data

SIZES: dict[str, tuple[float, float | None]] = {
    "hourglass_4x128": (3.289, 2.933),
    "hourglass_4x256": (13.021, 11.524),
    "hourglass_newell_4x256": (16.561, 11.033),
    "lpn50": (2.911, 1.068),
    "lpn101": (5.353, 1.504),
    "lpn152": (7.378, 1.943),
    "lite_hrnet_18": (1.131, None),
    "lite_hrnet_30": (1.764, None),
    "naive_lite_hrnet_18": (0.760, None),
    "wider_naive_lite_hrnet_18": (1.319, None),
    "simple_resnet50": (34.000, 5.426),
    "simple_resnet152": (68.636, 12.699),
}
"""Of the published code: millions of parameters (3.70 of Newell's are never used), and 1e9 multiply-adds at 192x256."""

_LARGE = {"hourglass_4x256", "hourglass_newell_4x256", "lpn152", "lite_hrnet_30", "simple_resnet152"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in _LARGE else ()) for name in SIZES]


@cache
def _all_shapes() -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = json.loads(
        gzip.decompress((shared_data("students_reference") / "state_dict_shapes.json.gz").read_bytes())
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_names_and_heatmaps_are_those_of_the_published_code(name: str) -> None:
    shapes = _all_shapes()[name]
    published = {re.sub(r"^(backbone|keypoint_head|model)\.", "", key): key for key in shapes}
    network = architecture(name).build(num_keypoints=17)
    heat = formula_heatmaps(network, shared_data("hrnet_reference"), shapes, published).numpy()
    expected = np.load(shared_data("students_reference") / "forward.npz")[name]
    assert heat.shape == expected.shape == (1, 17, 64, 48)
    assert np.abs(heat - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_multiply_adds_are_those_of_the_published_code(name: str) -> None:
    millions, multiply_adds = SIZES[name]
    found = profile(architecture(name).build(num_keypoints=17), size_wh=(192, 256))
    assert found.params / 1e6 == pytest.approx(millions, abs=6e-4)
    assert multiply_adds is None or found.macs / 1e9 == pytest.approx(multiply_adds, rel=0.01)


@pytest.mark.parametrize(
    ("name", "millions"), [("lite_hrnet_18", 205.2), ("lite_hrnet_30", 319.2), ("wider_naive_lite_hrnet_18", 311.1)]
)
def test_lite_hrnet_costs_what_is_published(name: str, millions: float) -> None:
    """The authors count each number that a batch norm or a bias changes too."""
    network, changed = architecture(name).build(num_keypoints=17), []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) or (isinstance(module, nn.Conv2d) and module.bias is not None):
            module.register_forward_hook(lambda _module, _inputs, output: changed.append(output.numel()))
    macs = profile(network, size_wh=(192, 256)).macs
    assert (macs + sum(changed)) / 1e6 == pytest.approx(millions, rel=0.002)


@pytest.mark.parametrize("name", ["hourglass_3x64", "hourglass_newell_3x64"])
def test_a_hourglass_gives_all_stacks_in_training_and_the_last_one_otherwise(name: str) -> None:
    network = architecture(name).build(num_keypoints=5, generator=torch.Generator().manual_seed(0))
    image = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Batch statistics in both modes.
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    stacks = network.train()(image)
    assert len(stacks) == 3
    assert {stack.shape for stack in stacks} == {(2, 5, 32, 16)}
    assert torch.equal(network.eval()(image), stacks[-1])


def test_the_stacks_of_the_reference() -> None:
    expected = np.load(shared_data("students_reference") / "forward.npz")["hourglass_4x128_stacks"]
    shapes = _all_shapes()["hourglass_4x128"]
    network = architecture("hourglass_4x128").build(num_keypoints=17)
    formula_heatmaps(network, shared_data("hrnet_reference"), shapes, dict(zip(shapes, shapes, strict=True)))
    found: list[torch.Tensor] = []
    for score in network.get_submodule("score").children():
        score.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    formula_heatmaps(network, shared_data("hrnet_reference"), shapes, dict(zip(shapes, shapes, strict=True)))
    heat = torch.cat(found)[:, :2].numpy()
    assert np.abs(heat - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("name", ["hrnet_w8_tiny", "hourglass_2x64", "hourglass_newell_1x64", "lpn50", "lite_hrnet_18",
                                  "naive_lite_hrnet_18", "simple_resnet18", "simple_lite0"])  # fmt: skip
def test_first_weights_come_from_the_generator_alone(name: str) -> None:
    def first(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        return architecture(name).build(num_keypoints=3, generator=torch.Generator().manual_seed(seed)).state_dict()

    one, same, other = first(0, 1), first(0, 2), first(1, 1)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_lite0_is_as_large_as_said() -> None:
    found = profile(architecture("simple_lite0").build(num_keypoints=17), size_wh=(96, 128))
    assert found.params == 3_747_505
    assert found.macs / 1e9 == pytest.approx(0.13, abs=0.005)
