"""Learning rates at steps that were computed by hand, and the rate of each parameter."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.settings import TrainSettings
from stages.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate

STEPS = TrainSettings()
CYCLE = TrainSettings(lr_schedule="one_cycle")


@pytest.mark.parametrize("per_epoch", [1, 7, 1170])
def test_steps_are_a_tenth_from_epoch_170_and_a_hundredth_from_200_of_210(per_epoch: int) -> None:
    def factor(epoch: int, step: int = 0) -> float:
        return learning_rate_factor(epoch * per_epoch + step, 210 * per_epoch, STEPS)

    assert factor(0) == factor(169, per_epoch - 1) == 1
    assert factor(170) == factor(199, per_epoch - 1) == pytest.approx(0.1)
    assert factor(200) == factor(209, per_epoch - 1) == pytest.approx(0.01)


def test_steps_after_given_epochs() -> None:
    settings = TrainSettings(epochs=140, lr_drop_epochs=(90, 120))

    def factor(epoch: int, step: int = 0) -> float:
        return learning_rate_factor(epoch * 7 + step, 140 * 7, settings)

    assert factor(0) == factor(89, 6) == 1
    assert factor(90) == factor(119, 6) == pytest.approx(0.1)
    assert factor(120) == factor(139, 6) == pytest.approx(0.01)


@pytest.mark.parametrize("changes", [{"lr_drop_epochs": [9, 5]}, {"lr_drop_epochs": [10]}, {"lr_schedule": "one_cycle"}])
def test_drops_must_fit_the_training(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="lr_drop_epochs"):
        TrainSettings.model_validate({"epochs": 10, "lr_drop_epochs": [5], **changes})


def test_one_cycle_rises_from_a_twenty_fifth_for_a_fifth_and_falls_to_zero() -> None:
    def factor(step: int) -> float:
        return learning_rate_factor(step, 1000, CYCLE)

    assert factor(0) == pytest.approx(0.04)
    assert factor(100) == pytest.approx(0.52)  # half-way up: (0.04 + 1) / 2
    assert factor(200) == pytest.approx(1.0)
    assert factor(600) == pytest.approx(0.5)  # half-way down
    assert factor(800) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))  # a quarter left
    assert 0 < factor(999) < 1e-5
    rates = [factor(step) for step in range(1000)]
    assert rates[:201] == sorted(rates[:201])
    assert rates[200:] == sorted(rates[200:], reverse=True)


def test_warm_up_is_linear_and_then_over() -> None:
    settings = TrainSettings(warmup_steps=4)
    assert [learning_rate_factor(step, 1000, settings) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cycle = TrainSettings(lr_schedule="one_cycle", warmup_steps=4)
    assert learning_rate_factor(1, 1000, cycle) == pytest.approx(learning_rate_factor(1, 1000, CYCLE) / 2)
    assert learning_rate_factor(0, 1000, STEPS) == 1


class _Senior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Linear(1, 1)
        self.network = nn.Linear(1, 1)


def _rates(optimizer: torch.optim.Optimizer, network: _Senior) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


def test_the_adapter_has_its_own_rate_and_all_rates_change_by_the_same_factor() -> None:
    network = _Senior()
    optimizer = make_optimizer(network, TrainSettings(lr=1e-4), adapter_lr=1e-2)
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.1)  # relative to the peak rate, not to the current one
    slow, fast = pytest.approx(1e-5), pytest.approx(1e-3)
    expected = {"adapter.weight": fast, "adapter.bias": fast, "network.weight": slow, "network.bias": slow}
    assert _rates(optimizer, network) == expected


def test_without_an_own_rate_the_adapter_has_the_rate_of_the_network() -> None:
    network = _Senior()
    assert set(_rates(make_optimizer(network, TrainSettings(lr=1e-4)), network).values()) == {1e-4}


def test_frozen_parameters_are_left_out() -> None:
    network = _Senior()
    for parameter in network.network.parameters():
        parameter.requires_grad_(False)
    optimizer = make_optimizer(network, TrainSettings(), adapter_lr=1e-2)
    set_learning_rate(optimizer, 1.0)
    assert set(_rates(optimizer, network)) == {"adapter.weight", "adapter.bias"}


def test_optimizer_and_weight_decay_come_from_the_settings() -> None:
    adam = make_optimizer(_Senior(), TrainSettings())
    assert type(adam) is torch.optim.Adam
    assert {group["weight_decay"] for group in adam.param_groups} == {0.0}
    adamw = make_optimizer(_Senior(), TrainSettings(optimizer="adamw", weight_decay=0.05))
    assert type(adamw) is torch.optim.AdamW
    assert {group["weight_decay"] for group in adamw.param_groups} == {0.05}


def test_one_step_of_adam_moves_by_the_learning_rate() -> None:
    """Adam's first step is lr * sign(gradient), but for epsilon."""
    network = _Senior()
    optimizer = make_optimizer(network, TrainSettings(lr=1e-3), adapter_lr=1e-1)
    set_learning_rate(optimizer, 0.1)
    before = {name: parameter.item() for name, parameter in network.named_parameters()}
    torch.stack([parameter.sum() for parameter in network.parameters()]).sum().backward()
    optimizer.step()
    moved = {name: before[name] - parameter.item() for name, parameter in network.named_parameters()}
    assert moved["adapter.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["network.weight"] == pytest.approx(1e-4, rel=1e-2)
