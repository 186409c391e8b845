"""The senior starts exactly at its primary, uses the mask, and does not see a withheld one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.networks.hrnet import HRNet, hrnet_small
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork


@pytest.fixture
def primary() -> HRNet:
    network = HRNet(hrnet_small(8), num_keypoints=17)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=torch.Generator().manual_seed(0))
    return network.eval()


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 3, 64, 32, generator=generator)
    mask = (torch.rand(3, 1, 64, 32, generator=generator) > 0.5).float()
    return image, mask


def _awake(adapter: MaskAdapter) -> MaskAdapter:
    nn.init.normal_(adapter.last.weight, generator=torch.Generator().manual_seed(2))
    return adapter


def test_an_untrained_senior_is_its_primary_for_every_mask(primary: HRNet) -> None:
    image, mask = _inputs()
    senior = SeniorNetwork(primary, MaskAdapter()).eval()
    with torch.no_grad():
        expected = primary(image)
        assert expected.std() > 0
        for has_mask in (torch.ones(3), torch.zeros(3), torch.tensor([1.0, 0.0, 1.0])):
            assert torch.equal(senior(image, mask, has_mask), expected)
            assert torch.equal(senior(image, torch.zeros_like(mask), has_mask), expected)


def test_a_withheld_mask_is_not_seen_and_differs_from_an_empty_one() -> None:
    _, mask = _inputs()
    adapter = _awake(MaskAdapter(generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        withheld = adapter(mask, torch.tensor([0.0, 1.0, 1.0]))
        unknown = adapter(torch.zeros_like(mask), torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(withheld[0], unknown[0])
    assert not torch.equal(withheld[1], unknown[1])
    assert not torch.equal(unknown[0], unknown[1])


def test_the_adapters_sum_reaches_the_primary(primary: HRNet) -> None:
    image, mask = _inputs()
    adapter = _awake(MaskAdapter())
    has_mask = torch.ones(3)
    with torch.no_grad():
        assert torch.equal(SeniorNetwork(primary, adapter)(image, mask, has_mask), primary(image + adapter(mask, has_mask)))


def test_two_steps_of_training_reach_both_layers_of_the_adapter(primary: HRNet) -> None:
    image, mask = _inputs()
    senior = SeniorNetwork(primary, MaskAdapter(generator=torch.Generator().manual_seed(3)))
    before = {name: value.clone() for name, value in senior.adapter.state_dict().items()}
    optimizer = torch.optim.SGD(senior.adapter.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        senior(image, mask, torch.ones(3)).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in senior.adapter.state_dict().items())


def test_the_adapter_has_two_5x5_layers_and_draws_them_from_its_generator() -> None:
    first, again = (MaskAdapter(generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.first.weight, again.first.weight)
    assert sum(parameter.numel() for parameter in first.parameters()) == (2 * 25 + 1) * 16 + (16 * 25 + 1) * 3
