"""The check before each checkpoint: losses, weights and optimizer state are finite, so that only good states are saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from storage_schemas.errors import TrainingError

__all__ = ["require_finite"]

_ALLOWED = "finite numbers; a lower learning rate (train.lr, distill.lr) or float32 (train.precision, distill.precision) helps"


def require_finite(
    title: str, epoch: int, losses: Sequence[float], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Check a training after the last of ``losses``, the losses of the steps of ``epoch`` (from 0) so far.

    Raises:
        TrainingError: a loss, a weight or a moment of the optimizer is NaN or infinite; it names the first step, from 1.
    """
    wrong = next((step for step, loss in enumerate(losses, 1) if not abs(loss) < float("inf")), None)
    if wrong is not None:
        what, step = f"loss of '{title}' is {losses[wrong - 1]}", wrong
    elif not _all_finite(_state(network, optimizer)):
        # The loss is measured before the update of its step, so the last update alone can do this without a trace in the loss.
        what, step = f"network of '{title}' has weights that are not finite", len(losses)
    else:
        return
    raise TrainingError(
        f"The {what} after step {step} of epoch {epoch + 1}; the checkpoints before it are kept", allowed=_ALLOWED
    )


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in [*network.state_dict().values(), *moments] if isinstance(value, Tensor)]


def _all_finite(tensors: Sequence[Tensor]) -> bool:
    finite = [value.isfinite().all() for value in tensors if value.is_floating_point()]
    # Counters of the optimizer can be on the CPU. One number for each device is read, since each waits for the device.
    devices = {flag.device for flag in finite}
    return all(bool(torch.stack([flag for flag in finite if flag.device == device]).all()) for device in devices)
