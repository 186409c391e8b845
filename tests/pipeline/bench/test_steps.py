"""Steps of the benchmark: the rows that they read, and the synchronisations between which they are timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bench.device import Machine
from pipeline.bench.scale import QUICK
from pipeline.bench.steps import _from_cache, _seconds
from stages.data.loader import Batch
from stages.settings import Role
from stages.training.memory_map import MappedArray
from stages.training.schedule import Weights
from stages.training.step import Trainer

PLACE = Machine("cpu", "float32", 1)


class Recorder:
    """A step that trains nothing and records its arguments."""

    def __init__(self) -> None:
        self.rows: list[npt.NDArray[np.int64]] = []
        self.batches: list[Batch] = []

    def step(
        self, batch: Batch, weights: Weights, teachers: Mapping[Role, MappedArray], *, generator: np.random.Generator
    ) -> None:
        """Note the batch."""
        self.rows.append(batch.rows_B)
        self.batches.append(batch)


def test_every_step_reads_other_instances_for_the_same_crops() -> None:
    crops = np.zeros((64, 8, 8, 3), np.uint8)
    batch = Batch(np.arange(64), crops, np.zeros((64, 17, 3), np.float32), np.zeros((64, 0, 0), np.uint8), np.ones(64, bool))
    recorder = Recorder()
    kinds = _from_cache(cast(Trainer, recorder), batch, {}, 16_384)
    for _ in range(50):
        for step in kinds.values():
            step()
    rows = np.concatenate(recorder.rows)
    assert 0 <= rows.min() < 100
    assert 16_284 <= rows.max() < 16_384
    # 9,600 draws out of 16,384 hit 16,384 (1 - exp(-9,600 / 16,384)) = 7,265 instances, give or take 40.
    assert abs(len(np.unique(rows)) - 7265) < 200
    assert all(given.image_Bhw3 is crops for given in recorder.batches)


def test_a_group_of_steps_is_timed_between_two_synchronisations(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(Machine, "synchronize", lambda _: ran.append("waited"))
    seconds = _seconds({"a": lambda: ran.append("step")}, PLACE, QUICK, rounds=3, title="groups")
    assert QUICK.group_steps == 2
    assert ran == ["waited", "step", "step", "waited"] * 4
    assert seconds["a"].shape == (3,)
