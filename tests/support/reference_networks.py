"""Weights by formula for networks whose published code computed reference heatmaps with the same weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

__all__ = ["formula_heatmaps"]


def _formula(folder: Path) -> ModuleType:
    """The module of the reference that computes weights by formula."""
    spec = importlib.util.spec_from_file_location("reference_weights", folder / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def formula_heatmaps(
    network: nn.Module, folder: Path, shapes: Mapping[str, Sequence[int]], published: Mapping[str, str]
) -> Tensor:
    """The heatmaps of the reference's image; ``shapes`` by published name, ``published`` has it for each of our names.

    Raises:
        RuntimeError: an entry is missing, unexpected, or has another shape.
    """
    formula = _formula(folder)
    values = {ours: torch.from_numpy(formula.weight(name, tuple(shapes[name]))) for ours, name in published.items()}
    network.eval().load_state_dict(values)
    with torch.no_grad():
        heat: Tensor = network(torch.from_numpy(formula.image()))
    return heat
