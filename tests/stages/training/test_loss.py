"""The loss compared with explicit sums, by value and by gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.training import loss
from stages.training.loss import LossTerm, blend_targets, halve, heatmap_loss, unpack_bits

B, K, H, W = 3, 4, 6, 8


def _terms() -> list[LossTerm]:
    generator = torch.Generator().manual_seed(0)

    def seen() -> Tensor:
        return (torch.rand(B, K, generator=generator) > 0.4).float()

    def heat() -> Tensor:
        return torch.rand(B, K, H, W, generator=generator)

    terms = [LossTerm(0.5, seen(), heat()), LossTerm(0.3, seen(), heat().round()), LossTerm(0.2, seen(), heat().round())]
    for term in terms:
        term.seen_BK[0, 0] = 0  # no term supervises this joint
    return terms


def _student() -> Tensor:
    return torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(1)).requires_grad_()


def _sum_of_losses(student: Tensor, terms: list[LossTerm]) -> Tensor:
    """w_gt * visible * MSE + w_pt * seen * MSE + w_st * seen * MSE, joint by joint, then the mean over joints and batch."""
    total = torch.zeros(())
    for term in terms:
        for b in range(B):
            for k in range(K):
                total = total + term.weight * term.seen_BK[b, k] * ((student[b, k] - term.heat_BKHW[b, k]) ** 2).sum() / (H * W)
    return total / (B * K)


def test_the_blend_has_the_gradient_of_the_sum_of_losses() -> None:
    terms = _terms()
    one, other = _student(), _student()
    heatmap_loss(one, *blend_targets(terms)).backward()
    _sum_of_losses(other, terms).backward()
    assert one.grad is not None
    assert other.grad is not None
    assert torch.allclose(one.grad, other.grad, atol=1e-8)
    assert one.grad.abs().max() > 1e-4


def test_the_blend_differs_from_the_sum_of_losses_by_a_constant() -> None:
    terms = _terms()
    gaps = []
    for seed in range(3):
        student = torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        gaps.append(float(heatmap_loss(student, *blend_targets(terms)) - _sum_of_losses(student, terms)))
    assert gaps == pytest.approx([gaps[0]] * 3, abs=1e-6)


def test_an_unsupervised_joint_has_no_gradient_and_a_finite_target() -> None:
    student = _student()
    target, weight = blend_targets(_terms())
    assert weight[0, 0] == 0
    assert torch.isfinite(target).all()
    heatmap_loss(student, target, weight).backward()
    assert student.grad is not None
    assert not student.grad[0, 0].any()
    taught = weight > 0
    assert (student.grad[taught].abs().amax(dim=(-2, -1)) > 0).all()


def test_one_term_is_its_own_target() -> None:
    seen, heat = _terms()[0].seen_BK, _terms()[0].heat_BKHW
    target, weight = blend_targets([LossTerm(0.7, seen, heat)])
    assert torch.allclose(weight, 0.7 * seen)
    assert torch.allclose(target, heat * seen[..., None, None], atol=1e-6)


def test_two_by_two_pixels_by_hand() -> None:
    """Joint 0: squares 1, 0, 4, 1, mean 1.5, weight 0.5. Joint 1: squares 0, 9, 0, 0, mean 2.25, weight 0: (0.75 + 0) / 2."""
    student = torch.tensor([[[[1.0, 0.0], [2.0, 1.0]], [[0.0, 3.0], [0.0, 0.0]]]])
    target = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert float(heatmap_loss(student, target, torch.tensor([[0.5, 0.0]]))) == pytest.approx(0.375)
    assert float(heatmap_loss(student, target, torch.tensor([[1.0, 1.0]]))) == pytest.approx((1.5 + 2.25) / 2)


def test_a_blend_of_two_by_hand() -> None:
    """Weights 0.6 and 0.2, targets 1 and 0: together 0.8, and the mean is 0.75; unseen by the second, 0.6 and 1."""
    ones, zeros = torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    target, weight = blend_targets([LossTerm(0.6, torch.ones(1, 2), ones), LossTerm(0.2, torch.tensor([[1.0, 0.0]]), zeros)])
    assert weight.tolist() == [[pytest.approx(0.8), pytest.approx(0.6)]]
    assert target.flatten().tolist() == [pytest.approx(0.75), pytest.approx(1.0)]


def test_half_precision_maps_are_compared_in_full() -> None:
    student = torch.full((1, 1, 64, 64), 0.001, dtype=torch.bfloat16)
    loss = heatmap_loss(student, torch.zeros(1, 1, 64, 64), torch.ones(1, 1))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(student[0, 0, 0, 0].float()) ** 2, rel=1e-5)


def test_bits_are_unpacked_as_numpy_packs_them() -> None:
    bits = np.random.default_rng(0).random((B, K, H, W)) > 0.5
    packed = np.packbits(bits.reshape(B, -1), axis=1)
    unpacked = unpack_bits(torch.from_numpy(packed), num_keypoints=K, heatmap_wh=(W, H))
    assert unpacked.dtype == torch.uint8
    assert np.array_equal(unpacked.numpy(), bits)


def test_every_pair_of_bytes_is_unpacked_in_its_order_on_any_device() -> None:
    """All 65,536 pairs, one a row; the code for GPUs (shift and mask) is tested on the CPU."""
    packed = np.arange(65536, dtype=">u2").view(np.uint8).reshape(-1, 2)
    expected = (np.arange(65536)[:, None] >> np.arange(15, -1, -1)) & 1
    unpacked = unpack_bits(torch.from_numpy(packed), num_keypoints=1, heatmap_wh=(4, 4))
    shifted = loss._shifted(torch.from_numpy(packed))
    assert shifted.dtype == torch.uint8
    for pixels in (unpacked, shifted):
        assert np.array_equal(pixels.numpy().reshape(-1, 16), expected)


def test_bits_of_selected_rows_belong_to_those_rows() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
    chosen = unpack_bits(torch.from_numpy(packed)[1::2], num_keypoints=2, heatmap_wh=(8, 6))
    assert np.array_equal(chosen.numpy().reshape(2, -1), np.unpackbits(packed[1::2], axis=1))


def test_a_halved_map_keeps_the_position() -> None:
    """Pixel (2j, 2i) of the larger map is cell (j, i) of the smaller one: the centroid halves, wherever the blob is."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:64, 0:48]
    centers = rng.uniform([10, 10], [38, 54], size=(300, 2))
    discs = np.stack([(xs - x) ** 2 + (ys - y) ** 2 <= 2.35**2 for x, y in centers])[:, None].astype(np.float32)
    small = halve(torch.from_numpy(discs)).numpy()[:, 0]
    assert small.shape == (300, 32, 24)
    mass = small.sum(axis=(1, 2))
    found = np.stack(
        [(small * np.arange(24)).sum(axis=(1, 2)) / mass, (small * np.arange(32)[:, None]).sum(axis=(1, 2)) / mass], 1
    )
    error = found - centers / 2
    assert np.abs(error.mean(axis=0)).max() < 0.02, "a mean of 2 x 2 pixels is off by 0.25"
    assert np.abs(error).max() < 0.3


def test_a_halved_map_by_hand() -> None:
    """A pixel at an even position gives a quarter to its cell; one at an odd position is shared by two cells."""
    even, odd = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    even[0, 0, 2, 4] = 1.0
    odd[0, 0, 2, 3] = 1.0
    assert halve(even)[0, 0].tolist() == [[0, 0, 0], [0, 0, 0.25]]
    assert halve(odd)[0, 0].tolist() == [[0, 0, 0], [0, 0.125, 0.125]]
    assert torch.equal(halve(odd.to(torch.uint8)), halve(odd)), "bits come as bytes"
