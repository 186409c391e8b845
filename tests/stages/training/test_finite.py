"""A training that goes wrong saves nothing of it: the next run goes on from the last good checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.training import loop
from stages.training.finite import require_finite
from stages.training.loop import WEIGHTS, Worker, train
from stages.training.step import Trainer
from storage_schemas.errors import TrainingError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import losses, make_plan, on_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

EPOCHS, STEPS = 3, 4


def poisoned(at: int, poison: Callable[[Trainer, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A training step whose call number ``at`` (from 1) ends with ``poison``."""
    step, calls = Trainer.step, iter(range(1, 1000))

    def broken(self: Trainer, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401 (whatever the step takes)
        loss = step(self, *args, **options)
        return poison(self, loss) if next(calls) == at else loss

    return broken


def nan_weight(trainer: Trainer, loss: Tensor) -> Tensor:
    with torch.no_grad():
        next(trainer.network.parameters())[0, 0, 0, 0] = torch.nan
    return loss


def nan_loss(_: Trainer, loss: Tensor) -> Tensor:
    return loss * torch.nan


@pytest.mark.parametrize(
    ("at", "poison", "said"),
    [
        # A checkpoint follows each step. A weight shows at the next check, before that step's loss can.
        (STEPS + 2, nan_weight, "weights that are not finite after step 2 of epoch 2"),
        (STEPS + 3, nan_loss, "loss of 'test: small' is nan after step 3 of epoch 2"),
        (EPOCHS * STEPS, nan_weight, "weights that are not finite after step 4 of epoch 3"),
    ],
)
def test_nothing_of_a_broken_step_is_saved(
    at: int, poison: Callable[[Trainer, Tensor], Tensor], said: str, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_LOOK_STEPS", 1)
    whole, broken = (make_plan(tmp_path / name, on_labels(EPOCHS), images=range(1, 9)) for name in ("whole", "broken"))
    train(whole, Worker())
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", poisoned(at, poison))
        with pytest.raises(TrainingError, match=said):
            train(broken, Worker())
    folder = local(broken.folder)
    saved = sorted(folder.glob("epoch-*.pt"))
    assert saved
    for path in saved:
        state = torch.load(path, weights_only=True)
        assert all(bool(value.isfinite().all()) for value in state["network"].values())
        assert all(abs(loss) < float("inf") for loss in state["losses"])
    assert not (folder / WEIGHTS).exists()
    train(broken, Worker())
    assert losses(folder) == pytest.approx(losses(local(whole.folder)), rel=1e-6)
    expected = load_weights(local(whole.folder) / WEIGHTS).state
    assert all(torch.equal(value, expected[name]) for name, value in load_weights(folder / WEIGHTS).state.items())


def test_moments_of_the_optimizer_are_checked_too() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    require_finite("t", 0, [1.0], network, optimizer)
    # The square of a gradient overflows before the gradient does; the weight would never move again.
    optimizer.state[network.weight]["exp_avg_sq"][0, 0] = torch.inf
    with pytest.raises(TrainingError, match="not finite after step 1 of epoch 1"):
        require_finite("t", 0, [1.0], network, optimizer)
