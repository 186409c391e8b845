"""A training that was cut off while another process took it over."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from torch import Tensor

from stages.training.attempt import SupersededError
from stages.training.loop import WEIGHTS, Worker, train
from stages.training.step import Trainer
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.plan_samples import make_plan, on_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def hashes(folder: LocalPath) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("committed", [False, True])
def test_an_attempt_that_was_replaced_writes_nothing_more(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    plan = make_plan(tmp_path, on_labels(2))
    folder, step, left = local(plan.folder), Trainer.step, dict[str, str]()

    def cut_off(self: Trainer, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401 (whatever the step takes)
        loss = step(self, *args, **options)
        if not left:
            # Another process trains from the start to the end, while this one is in its first epoch.
            monkeypatch.setattr(Trainer, "step", step)
            train(plan, Worker())
            if committed:
                (folder / "attempt").unlink()
            left.update(hashes(folder))
        return loss

    monkeypatch.setattr(Trainer, "step", cut_off)
    with pytest.raises(SupersededError):
        train(plan, Worker())
    assert WEIGHTS in left
    assert hashes(folder) == left
