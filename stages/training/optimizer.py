"""The optimizer, and its learning rate as a function of the step alone, so that a resumed training restores none."""

from __future__ import annotations

import math

import torch
from torch import nn

from stages.settings import TrainSettings

__all__ = ["learning_rate_factor", "make_optimizer", "set_learning_rate"]

_STEPS_AT: tuple[float, ...] = (170 / 210, 200 / 210)
"""HRNet's recipe: a tenth at epoch 170 and at epoch 200 of 210 (experiments/coco/hrnet)."""
_CYCLE_RISE = 0.2
_CYCLE_START = 0.04


def learning_rate_factor(step: int, total_steps: int, settings: TrainSettings) -> float:
    """The factor of the learning rate in ``step`` (from 0) of ``total_steps``."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = step / total_steps
    if settings.lr_schedule == "steps":
        drops = _STEPS_AT
        if settings.lr_drop_epochs is not None:
            drops = tuple(epoch / settings.epochs for epoch in settings.lr_drop_epochs)
        return warmup * math.prod(0.1 for at in drops if done >= at)
    if done < _CYCLE_RISE:
        return warmup * (_CYCLE_START + (1.0 - _CYCLE_START) * _half_cosine(done / _CYCLE_RISE))
    return warmup * (1.0 - _half_cosine((done - _CYCLE_RISE) / (1.0 - _CYCLE_RISE)))


def _half_cosine(share: float) -> float:
    """From 0 to 1 along half a cosine."""
    return 0.5 - 0.5 * math.cos(math.pi * share)


def make_optimizer(network: nn.Module, settings: TrainSettings, *, adapter_lr: float | None = None) -> torch.optim.Optimizer:
    """Adam or AdamW over the trainable parameters; parameters named ``adapter.*`` use ``adapter_lr``.

    Adam without weight decay is HRNet's own recipe: HRNet's code passes the decay in its yaml only to SGD.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    adapter = [parameter for name, parameter in named if name.startswith("adapter.")]
    rest = [parameter for name, parameter in named if not name.startswith("adapter.")]
    groups = [{"params": rest, "peak_lr": settings.lr}]
    if adapter:
        groups.append({"params": adapter, "peak_lr": adapter_lr if adapter_lr is not None else settings.lr})
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    # HRNet has hundreds of small tensors: updating each by itself takes a sixth of a short step on a CPU.
    return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of every group to its peak rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
