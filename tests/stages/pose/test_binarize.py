from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.pose.binarize import binarize
from stages.pose.heatmap import encode

RULES: dict[str, Any] = {"mode": "relative", "threshold": 0.5, "min_peak": 0.2, "keep": "peak_component"}


def bits_of(heat_HW: torch.Tensor, **changes: object) -> torch.Tensor:
    return binarize(heat_HW[None, None], **(RULES | changes))[0][0, 0]


def drawn_map(text: str) -> torch.Tensor:
    """A map from digits: 9 is 0.9, a dot is 0."""
    return torch.tensor([[0.0 if c == "." else int(c) / 10 for c in row] for row in text.split()])


def component_by_search(bits: npt.NDArray[np.bool_], seed: tuple[int, int]) -> npt.NDArray[np.bool_]:
    found = np.zeros_like(bits)
    queue = deque([seed] if bits[seed] else [])
    while queue:
        row, column = queue.popleft()
        if not (0 <= row < bits.shape[0] and 0 <= column < bits.shape[1]) or found[row, column]:
            continue
        if bits[row, column]:
            found[row, column] = True
            queue.extend((row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    return found


def test_half_the_peak_of_a_gaussian_of_sigma_2_is_a_disc_of_21_pixels() -> None:
    heat, _ = encode(torch.tensor([[[80.0, 100.0]]]), torch.ones(1, 1), size_wh=(48, 64))
    bits = bits_of(0.4 * heat[0, 0])
    # radius 2 sqrt(2 ln 2) = 2.355: whole-number points with dx^2 + dy^2 <= 5.5
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    assert torch.equal(bits, (rows - 25) ** 2 + (columns - 20) ** 2 <= 5)
    assert int(bits.sum()) == 21


def test_only_the_component_with_the_peak_stays_and_all_keeps_both() -> None:
    heat = drawn_map("77.... 79...5 ...... ....88 ....87")
    assert torch.equal(bits_of(heat), drawn_map("99.... 99.... ...... ...... ......") > 0)
    assert torch.equal(bits_of(heat, keep="all"), heat > 0)


def test_diagonal_neighbours_are_connected() -> None:
    assert int(bits_of(drawn_map("9... .6.. ..6. ...6 6...")).sum()) == 4


def test_a_bit_exactly_at_the_threshold_is_set() -> None:
    heat = torch.tensor([[1.0, 0.5, 0.4999, 0.0]])
    assert bits_of(heat).tolist() == [[True, True, False, False]]


def test_an_absolute_threshold_does_not_follow_the_peak() -> None:
    heat = torch.tensor([[0.5, 0.3, 0.2, 0.1]])
    assert bits_of(heat, mode="absolute", threshold=0.3).tolist() == [[True, True, False, False]]
    assert not bits_of(heat, mode="absolute", threshold=0.6).any()


def test_a_weak_map_has_no_bits_but_returns_its_peak() -> None:
    heat = torch.stack([drawn_map("1.. ..."), drawn_map("2.. ..."), -1 - drawn_map("1.. ...")])[None]
    bits, peak, bad = binarize(heat, **RULES)
    assert bits.flatten(2).sum(-1).tolist() == [[0, 1, 0]]
    assert peak[0].tolist() == pytest.approx([0.1, 0.2, -1.0])
    assert not bad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("keep", ["peak_component", "all"])
def test_a_map_that_is_not_finite_is_marked_and_changes_no_other(value: float, keep: str) -> None:
    heat = torch.stack([drawn_map("97. ..."), drawn_map("97. ...")])[None]
    heat[0, 0, 1, 2] = value
    bits, peak, bad = binarize(heat, **(RULES | {"keep": keep}))
    assert bad.tolist() == [[True, False]]
    assert peak[0].tolist() == pytest.approx([0.0, 0.9])
    assert bits.flatten(2).sum(-1).tolist() == [[0, 2]]


def test_an_empty_map_is_marked() -> None:
    bits, peak, bad = binarize(torch.zeros(1, 1, 4, 4), **(RULES | {"min_peak": 0.0}))
    assert (bool(bits.any()), float(peak), bool(bad)) == (False, 0.0, True)


def test_half_precision_works_and_the_input_stays_unchanged() -> None:
    heat = drawn_map("97. ...")[None, None].to(torch.bfloat16)
    before = heat.clone()
    bits, peak, _ = binarize(heat, **RULES)
    assert (bits.dtype, peak.dtype, int(bits.sum())) == (torch.bool, torch.float32, 2)
    assert torch.equal(heat, before)


def test_no_maps_have_no_bits() -> None:
    bits, peak, bad = binarize(torch.zeros(0, 17, 8, 6), **RULES)
    assert (bits.shape, peak.shape, bad.shape) == ((0, 17, 8, 6), (0, 17), (0, 17))


def test_a_long_thin_component_is_kept_completely() -> None:
    heat = torch.zeros(64, 48)
    heat[::2] = 0.6
    for row in range(1, 63, 2):
        heat[row, 47 if row % 4 == 1 else 0] = 0.6
    heat[0, 0] = 0.9
    assert torch.equal(bits_of(heat), heat > 0)
    heat[31, :] = 0.0
    expected = heat > 0
    expected[31:] = False
    assert torch.equal(bits_of(heat), expected)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.2, 0.9))
def test_flood_fill_is_a_breadth_first_search(seed: int, height: int, width: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    maps = np.where(rng.random((2, 3, height, width)) < density, 0.5 + 0.5 * rng.random((2, 3, height, width)), 0.22)
    bits, _, _ = binarize(torch.from_numpy(maps), **RULES)
    for index in np.ndindex(2, 3):
        heat = maps[index].astype(np.float32)
        row, column = divmod(int(heat.argmax()), width)
        expected = component_by_search(heat >= 0.5 * heat.max(), (row, column))
        np.testing.assert_array_equal(bits[index].numpy(), expected)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["peak_component", "all"]), st.sampled_from(["relative", "absolute"]))
def test_binarizing_bits_changes_nothing(seed: int, keep: str, mode: str) -> None:
    heat = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    rules = RULES | {"keep": keep, "mode": mode}
    bits, _, _ = binarize(heat, **rules)
    again, _, _ = binarize(bits.float(), **rules)
    assert torch.equal(bits, again)
