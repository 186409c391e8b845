"""Heatmaps to bits: the pixels near the peak of a map, as one connected component.

Letters: B batch, K keypoints, M maps (B*K), H W heatmap pixels. The paper (arXiv 2104.10414) gives no formula for its
binarization; the relative threshold and keeping the component of the peak are our choice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["BinarizeMode", "KeepRule", "binarize"]

BinarizeMode = Literal["relative", "absolute"]
KeepRule = Literal["peak_component", "all"]


def binarize(
    heat_BKHW: Tensor, *, mode: BinarizeMode, threshold: float, min_peak: float, keep: KeepRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Bits bool (B, K, H, W), peak float32 (B, K) and bad bool (B, K), on the device of ``heat_BKHW``.

    A bit is set where the map is at least ``threshold`` times its own peak ("relative") or at least ``threshold``
    ("absolute"). "peak_component" keeps only the bits that are connected, also diagonally, to the first pixel with the
    peak's value; "all" keeps every bit. A map with a peak below ``min_peak``, or not above 0, has no bits, but its peak is
    returned. ``bad`` marks invalid maps, which have no bits and peak 0: maps with a NaN or an infinity, and maps that are 0
    everywhere.
    """
    heat_BKHW = heat_BKHW.float()
    # amin and amax propagate NaN, so two cheap reductions find every value that is not finite.
    low_BK, peak_BK = heat_BKHW.amin(dim=(-2, -1)), heat_BKHW.amax(dim=(-2, -1))
    bad_BK = ~(low_BK.isfinite() & peak_BK.isfinite()) | ((low_BK == 0) & (peak_BK == 0))
    peak_BK = peak_BK.masked_fill(bad_BK, 0.0)
    cut_BK = threshold * peak_BK if mode == "relative" else torch.full_like(peak_BK, threshold)
    # No pixel reaches a cut of NaN, so bad and weak maps need no second pass.
    cut_BK = cut_BK.masked_fill((peak_BK < min_peak) | (peak_BK <= 0), torch.nan)
    bits_BKHW = heat_BKHW >= cut_BK[..., None, None]
    if keep == "peak_component":
        seed_M = heat_BKHW.flatten(0, 1).flatten(1).argmax(dim=-1)
        bits_BKHW = _component(bits_BKHW.flatten(0, 1), seed_M).view_as(bits_BKHW)
    return bits_BKHW, peak_BK, bad_BK


def _component(bits_MHW: Tensor, seed_M: Tensor) -> Tensor:
    """The 8-connected component of ``bits_MHW`` that contains the flat pixel index ``seed_M``: flood fill by dilation.

    Every round dilates the regions by one pixel and continues with those that grew, so one long thin component does not
    slow the other maps of the batch down.
    """
    region_MHW = torch.zeros_like(bits_MHW)
    region_MHW.flatten(1).scatter_(1, seed_M[:, None], True)
    region_MHW &= bits_MHW
    growing_M = torch.arange(len(bits_MHW), device=bits_MHW.device)
    while growing_M.numel():
        before_MHW = region_MHW[growing_M]
        after_MHW = _dilate(before_MHW) & bits_MHW[growing_M]
        region_MHW[growing_M] = after_MHW
        growing_M = growing_M[(after_MHW ^ before_MHW).flatten(1).any(dim=1)]
    return region_MHW


def _dilate(region_MHW: Tensor) -> Tensor:
    """Every pixel that has a set pixel in its 3x3 neighbourhood: first along columns, then along rows."""
    tall_MHW = region_MHW.clone()
    tall_MHW[:, 1:] |= region_MHW[:, :-1]
    tall_MHW[:, :-1] |= region_MHW[:, 1:]
    wide_MHW = tall_MHW.clone()
    wide_MHW[:, :, 1:] |= tall_MHW[:, :, :-1]
    wide_MHW[:, :, :-1] |= tall_MHW[:, :, 1:]
    return wide_MHW
