"""Who is read by a training, whose labels it may use, and the batches of an epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.data.holdout import is_held_out
from stages.data.labels import has_label
from stages.data.loader import Rows
from stages.training.rows import epoch_order, training_rows
from storage_schemas.errors import TrainingError
from storage_schemas.formats.instances import Instances
from tests.support.instance_samples import make_instances
from tests.support.plan_samples import BARE_PLAN

PLAN = replace(BARE_PLAN, only_labelled=False)


def _people(num: int, *, unlabelled: int = 0, masks: int = 0) -> Instances:
    """People of whom the last ``unlabelled`` have no labelled joint, and the first ``masks`` a mask."""
    keypoints = np.zeros((num, 17, 3), np.float32)
    keypoints[: num - unlabelled, 3] = (20, 20, 1)
    known = [b"mask" if row < masks else None for row in range(num)]
    return make_instances(list(range(num)), keypoints_NK3=keypoints, masks=known)


def _order(num: int, *, seed: int = 5, epoch: int = 0, rank: int = 0, world: int = 1, batch: int = 8) -> list[Rows]:
    return epoch_order([(np.arange(num), batch)], steps=num // batch, seed=seed, epoch=epoch, rank=rank, world=world)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_workers_sees_the_same_batches(world: int) -> None:
    whole = _order(103, epoch=2)
    ranks = [_order(103, epoch=2, rank=rank, world=world) for rank in range(world)]
    assert [len(batches) for batches in ranks] == [103 // 8] * world
    for index, batch in enumerate(whole):
        parts = [batches[index] for batches in ranks]
        assert {len(part) for part in parts} == {8 // world}
        assert sorted(np.concatenate(parts)) == sorted(batch)


def test_each_row_is_in_an_epoch_at_most_once_and_the_order_differs_between_epochs() -> None:
    epochs = [np.concatenate(_order(103, epoch=epoch)) for epoch in range(30)]
    for order in epochs:
        assert len(order) == 96 == len(set(order))
        assert set(order) <= set(range(103))
    assert len({tuple(order) for order in epochs}) == 30
    # Each epoch drops 7 of 103 rows, not always the same ones.
    assert set.union(*(set(range(103)) - set(order) for order in epochs)) > set(range(7))
    assert not np.array_equal(np.concatenate(_order(103, seed=6)), epochs[0])


def test_a_set_that_is_smaller_than_all_batches_begins_again() -> None:
    batches = epoch_order([(np.arange(10), 2), (np.arange(100, 107), 6)], steps=20, seed=-1, epoch=0, rank=0, world=1)
    assert [len(batch) for batch in batches] == [8] * 20
    for batch in batches:
        assert all(batch[:2] < 10)
        assert all(batch[2:] >= 100)
    rows = np.concatenate(batches)
    # 40 rows of 10, and 120 of 7: each as often as the others, give or take one.
    assert np.bincount(rows[rows < 10]).tolist() == [4] * 10
    assert set(np.bincount(rows[rows >= 100] - 100)) == {17, 18}


def test_held_out_people_are_not_read_and_unlabelled_ones_only_by_a_training_with_teachers() -> None:
    people = _people(200, unlabelled=50, masks=20)
    taught = training_rows(people, replace(PLAN, holdout_fraction=0.2))
    expected = [row for row in range(200) if not is_held_out(row, 0.2)]
    assert taught.rows_R.tolist() == expected
    assert taught.labelled_N.tolist() == [row < 150 for row in range(200)]
    alone = training_rows(people, replace(PLAN, holdout_fraction=0.2, only_labelled=True))
    assert alone.rows_R.tolist() == [row for row in expected if row < 150]
    # It trains for as many steps as the one with teachers, on fewer people.
    assert alone.steps == taught.steps == len(expected) // 8
    masked = training_rows(people, replace(PLAN, only_masked=True, only_labelled=True))
    assert masked.rows_R.tolist() == list(range(20))


def test_a_share_of_labels_hides_those_of_the_others() -> None:
    people = _people(400, unlabelled=100)
    plan = replace(PLAN, labelled_fraction=0.25)
    expected = [row < 300 and has_label(100 + row, 0.25) for row in range(400)]
    assert training_rows(people, plan).labelled_N.tolist() == expected
    alone = training_rows(people, replace(plan, only_labelled=True))
    assert alone.rows_R.tolist() == np.flatnonzero(expected).tolist()
    assert alone.steps == 400 // 8


def test_each_batch_has_the_share_of_labelled_people() -> None:
    people = _people(100, unlabelled=90)
    rows = training_rows(people, replace(PLAN, labelled_share=0.5))
    for batch in rows.batches(seed=0, epoch=0, rank=0, world=1):
        assert (batch < 10).sum() == 4
    (ours,) = {len(batch) for batch in rows.batches(seed=0, epoch=0, rank=1, world=4)}
    assert ours == 2


def test_fewer_people_than_a_batch_are_one_batch_that_all_workers_share_evenly() -> None:
    rows = training_rows(_people(5), PLAN)
    (batch,) = rows.batches(seed=-1, epoch=0, rank=0, world=1)
    assert sorted(batch) == [0, 1, 2, 3, 4]
    parts = [rows.batches(seed=-1, epoch=0, rank=rank, world=2) for rank in range(2)]
    assert [len(part) for (part,) in parts] == [2, 2]


@pytest.mark.parametrize(
    ("people", "changes", "said"),
    [
        (_people(4, unlabelled=4), {"only_labelled": True}, "'test: bare' has no training instance"),
        (_people(4), {"only_masked": True}, "'test: bare' has no training instance"),
        (_people(4), {"labelled_share": 0.5}, "labelled_share is 0.5, but all 4 training instances are labelled"),
        (_people(4, unlabelled=4), {"labelled_share": 0.5}, "all 4 training instances are unlabelled"),
    ],
)
def test_a_training_that_nobody_can_learn_from_is_refused(people: Instances, changes: dict[str, float], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        training_rows(people, replace(PLAN, **changes))  # type: ignore[arg-type]
