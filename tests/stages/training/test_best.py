"""The weights of the best epoch: kept over kills, and the result of a training that asks for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.training.best import best_ap, load_best
from stages.training.loop import WEIGHTS, Worker, train
from stages.training.plan import TrainingPlan
from stages.training.validate import Validator
from storage_schemas.errors import CorruptEntryError
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import make_plan, on_labels


class _KilledError(Exception):
    """Ends a training in the middle."""


def _plan(folder: LocalPath, epochs: int = 4, *, keep_best: bool = True) -> TrainingPlan:
    plan = make_plan(folder, on_labels(epochs), images=list(range(1, 41)))
    return replace(plan, holdout_fraction=0.2, validate_every=1, keep_best=keep_best)


def _scores(monkeypatch: pytest.MonkeyPatch, values: list[float | None]) -> list[dict[str, Tensor]]:
    """Have the validator give these numbers, and end the process where there is none; the weights of each call."""
    given, seen = iter(values), list[dict[str, Tensor]]()

    def ap(_: Validator, network: nn.Module) -> float:
        value = next(given)
        if value is None:
            raise _KilledError
        seen.append({name: each.clone() for name, each in network.state_dict().items()})
        return value

    monkeypatch.setattr(Validator, "ap", ap)
    return seen


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def folder(tmp_path: LocalPath) -> LocalPath:
    return tmp_path / "training"


def test_the_result_is_that_of_the_first_epoch_with_the_best_ap(folder: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(folder)
    seen = _scores(monkeypatch, [0.1, 0.5, 0.5, 0.2])
    train(plan, Worker())
    assert best_ap(plan.folder, 4) == (0.5, 1)
    assert _same(load_weights(local(plan.folder) / WEIGHTS).state, seen[1])
    assert sorted(path.name for path in local(plan.folder).glob("best-*.safetensors")) == ["best-00001.safetensors"]


def test_without_keep_best_the_last_weights_are_the_result_and_the_ap_is_in_the_curve(
    folder: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(folder, keep_best=False)
    seen = _scores(monkeypatch, [0.1, 0.5, 0.5, 0.2])
    train(plan, Worker())
    assert _same(load_weights(local(plan.folder) / WEIGHTS).state, seen[3])
    assert best_ap(plan.folder, 4) == (0.5, 1)
    assert not list(local(plan.folder).glob("best-*"))


def test_a_training_that_was_killed_keeps_the_best_weights(folder: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(folder)
    seen = _scores(monkeypatch, [0.1, 0.5, None])
    with pytest.raises(_KilledError):
        train(plan, Worker())
    _scores(monkeypatch, [0.4, 0.3])
    train(plan, Worker())
    assert _same(load_weights(local(plan.folder) / WEIGHTS).state, seen[1])


def test_every_second_epoch_and_the_last_one_are_scored(folder: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(_plan(folder, 5), validate_every=2)
    seen = _scores(monkeypatch, [0.1, 0.2, 0.3])
    train(plan, Worker())
    assert len(seen) == 3
    assert best_ap(plan.folder, 5) == (0.3, 4)
    assert best_ap(plan.folder, 4) == (0.2, 3)


def test_missing_weights_of_the_best_epoch_are_an_error(folder: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(folder)
    _scores(monkeypatch, [0.1, 0.5, None])
    with pytest.raises(_KilledError):
        train(plan, Worker())
    (local(plan.folder) / "best-00001.safetensors").unlink()
    with pytest.raises(CorruptEntryError, match=r"The weights of the best epoch \(2\) are missing"):
        load_best(plan.folder, nn.Linear(1, 1), 2)
