"""Harder crops: only pixels change, where they may, and the same generator changes the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.training.harder import harden
from stages.training_settings import HardSettings

BATCH, HEIGHT, WIDTH = 6, 128, 96


def _images() -> Tensor:
    return torch.randn(BATCH, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) + 3


def _maps(*, x: int = 12, y: int = 20) -> tuple[Tensor, Tensor]:
    """Joint 2 of each crop at (x, y) in heatmap pixels, with weight 1; the place of the others is unknown."""
    target, weight = torch.zeros(BATCH, 4, HEIGHT // 4, WIDTH // 4), torch.zeros(BATCH, 4)
    target[:, 2, y, x] = 1.0
    weight[:, 2] = 1.0
    return target, weight


def _harden(seed: int = 0, **changes: float) -> Tensor:
    return harden(_images(), *_maps(), HardSettings.model_validate(changes), np.random.default_rng(seed))


def test_without_changes_the_image_is_the_same() -> None:
    assert torch.equal(_harden(), _images())


def test_the_same_generator_draws_the_same_changes() -> None:
    everything = {"joint_cutout": 0.5, "cutout": 0.5, "colour": 0.3, "blur": 0.5}
    assert torch.equal(_harden(1, **everything), _harden(1, **everything))
    assert not torch.equal(_harden(1, **everything), _harden(2, **everything))


def test_a_square_over_the_joint_is_filled_with_the_mean_colour() -> None:
    hard = _harden(joint_cutout=1.0)
    covered = (hard == 0).all(dim=1)
    # 20 of 256 pixels are 10 of 128; the joint is at 4 times its place in the heatmap.
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[80 - 5 : 80 + 5, 48 - 5 : 48 + 5] = True
    assert all(torch.equal(mask, expected) for mask in covered)
    assert torch.equal(hard[:, :, ~expected], _images()[:, :, ~expected])


def test_joints_of_unknown_place_are_not_covered() -> None:
    target, weight = _maps()
    hard = harden(_images(), target, weight * 0, HardSettings(joint_cutout=1.0), np.random.default_rng(0))
    assert torch.equal(hard, _images())


def test_about_the_wanted_share_of_crops_is_covered_by_a_rectangle_of_the_wanted_size() -> None:
    images = torch.ones(400, 3, HEIGHT, WIDTH)
    target, weight = torch.zeros(400, 1, 32, 24), torch.zeros(400, 1)
    hard = harden(images, target, weight, HardSettings(cutout=0.25), np.random.default_rng(0))
    covered = (hard == 0).all(dim=1)
    assert int(covered.flatten(1).any(dim=1).sum()) == pytest.approx(100, abs=25)
    for mask in covered[covered.flatten(1).any(dim=1)]:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        height, width = (int(span.max() - span.min()) + 1 for span in (rows, columns))
        assert int(mask.sum()) == height * width
        assert 0.09 * HEIGHT <= height <= 0.41 * HEIGHT
        assert 0.09 * WIDTH <= width <= 0.41 * WIDTH


def test_colours_change_by_no_more_than_the_strength() -> None:
    images, hard = _images(), _harden(colour=0.2)
    for before, after in zip(images.flatten(0, 1), hard.flatten(0, 1), strict=True):
        contrast = float(after.std() / before.std())
        assert 0.8 <= contrast <= 1.2
        assert abs(float(after.mean() - before.mean())) <= 0.2
        # The change is linear: no pixel moves.
        assert torch.allclose((after - after.mean()) / contrast, before - before.mean(), atol=1e-4)


def test_a_blur_keeps_the_mean_and_lowers_the_contrast_of_the_chosen_crops() -> None:
    images, hard = _images(), _harden(blur=1.0)
    assert torch.allclose(hard.mean(dim=(-2, -1)), images.mean(dim=(-2, -1)), atol=0.02)
    assert (hard.std(dim=(-2, -1)) < 0.8 * images.std(dim=(-2, -1))).all()
    half = _harden(blur=0.5)
    changed = [not torch.allclose(one, other, atol=1e-5) for one, other in zip(half, images, strict=True)]
    assert 0 < sum(changed) < BATCH
