"""The cost of networks, compared with published figures and with counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from stages.networks.hrnet import HRNet, hrnet_small
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork
from stages.networks.profile import Profile, measure_latency, profile
from stages.networks.spec import architecture


@pytest.mark.parametrize(
    ("name", "gmac", "hrnet_gflops"),
    [
        ("hrnet_w8", 1.482, 1.380),
        ("hrnet_w16", 2.749, 2.560),
        pytest.param("hrnet_w18", 3.188, 2.969, marks=pytest.mark.slow),
        pytest.param("hrnet_w32", 7.645, 7.120, marks=pytest.mark.slow),
        pytest.param("hrnet_w48", 15.692, 14.614, marks=pytest.mark.slow),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, gmac: float, hrnet_gflops: float) -> None:
    counted = profile(architecture(name).build(num_keypoints=17), size_wh=(192, 256))
    assert (round(counted.gmac, 3), round(counted.hrnet_gflops, 3)) == (gmac, hrnet_gflops)


def test_the_small_network_costs_1450_million() -> None:
    four_bottlenecks = replace(hrnet_small(16), stem_blocks=4)
    counted = profile(HRNet(four_bottlenecks, num_keypoints=17), size_wh=(192, 256))
    assert (round(counted.params / 1e6, 2), round(counted.gmac, 2)) == (1.60, 1.45)


def test_a_convolution_has_the_count_computed_by_hand_and_keeps_its_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)).train()
    counted = profile(network, size_wh=(6, 4))
    assert counted == Profile(params=3 * 5 * 9 + 5 + 2 * 5, macs=24 * 3 * 5 * 9)
    assert network.training
    assert network[1].num_batches_tracked == 0


def test_a_seniors_adapter_is_counted() -> None:
    primary = HRNet(hrnet_small(8), num_keypoints=17)
    more = profile(SeniorNetwork(primary, MaskAdapter()), size_wh=(32, 64)).macs - profile(primary, size_wh=(32, 64)).macs
    assert more == 32 * 64 * 25 * (2 * 16 + 16 * 3)


def test_the_text_names_both_units() -> None:
    text = str(Profile(params=7_446_000, macs=2 * 1024**3))
    assert text == "7.446 M parameters, 2.147 GMac (1e9), 2.000 in HRNet's unit (1024^3)"


def test_more_work_takes_longer() -> None:
    small, large = (measure_latency(nn.Conv2d(3, 8, 3), size_wh=size_wh, runs=5) for size_wh in ((16, 16), (512, 512)))
    assert 0 < small < large
