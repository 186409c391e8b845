"""What networks of parallel branches have in common: each branch has half the size of the one before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

__all__ = ["raised", "transition"]


def raised(in_channels: int, out_channels: int, levels: int) -> nn.Sequential:
    """Layers that bring a branch to the channels and the size of one that is ``levels`` finer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Upsample(scale_factor=2**levels, mode="nearest"),
    )


def transition(
    before: Sequence[int],
    after: Sequence[int],
    *,
    adapted: Callable[[int, int], nn.Module],
    lowered: Callable[[int, int], nn.Module],
) -> nn.ModuleList:
    """Layers between two stages: adapt the channels of each branch, and compute the new branch from the lowest one.

    ``adapted`` and ``lowered`` make the layers from the channels before and after; a branch that stays as it is has None.
    """
    paths: list[nn.Module | None] = []
    for index, channels in enumerate(after):
        if index >= len(before):
            # The authors' code has this extra level of nesting, since their new branch may need several halvings.
            paths.append(nn.Sequential(lowered(before[-1], channels)))
        else:
            paths.append(None if before[index] == channels else adapted(before[index], channels))
    # A None in the list has no key in the state dict, and the indices of the others stay.
    return nn.ModuleList(paths)  # type: ignore[arg-type]
