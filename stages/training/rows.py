"""The instances of a training: which ones it reads, which of them have labels for it, and the batches of each epoch.

Letters: N rows of the instance table, R rows of a training, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.data.holdout import held_out
from stages.data.labels import labelled
from stages.data.loader import Rows
from stages.training.plan import TrainingPlan
from storage_schemas.errors import TrainingError
from storage_schemas.formats.instances import Instances

__all__ = ["TrainingRows", "epoch_order", "training_rows"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """The rows of a training. ``steps`` are those of an epoch: a baseline with few labels trains as long as its student."""

    labelled_N: Bools
    """Whether the training may use the labels of a row."""
    rows_R: Rows
    """The rows that it reads."""
    batch_size: int
    labelled_share: float | None
    steps: int

    def batches(self, *, seed: int, epoch: int, rank: int, world: int) -> list[Rows]:
        """One worker's part of each batch of an epoch, as rows of the table."""
        size = self.batch_size - self.batch_size % world
        streams = [(self.rows_R, size)]
        if self.labelled_share is not None:
            is_labelled_R = self.labelled_N[self.rows_R]
            first = round(size * self.labelled_share)
            streams = [(self.rows_R[is_labelled_R], first), (self.rows_R[~is_labelled_R], size - first)]
        return epoch_order(
            [stream for stream in streams if stream[1]], steps=self.steps, seed=seed, epoch=epoch, rank=rank, world=world
        )


def training_rows(instances: Instances, plan: TrainingPlan) -> TrainingRows:
    """The rows of a plan: none that is held out; of the rest those with a mask or a label, if the plan says so.

    Raises:
        TrainingError: there are none, or a share of labelled ones is asked for and there are only labelled or unlabelled ones.
    """
    labelled_N = labelled(instances, plan.labelled_fraction)
    usable_N = ~held_out(instances, plan.holdout_fraction)
    if plan.only_masked:
        usable_N &= instances.has_mask_N
    rows_R = np.flatnonzero(usable_N & labelled_N if plan.only_labelled else usable_N)
    if not len(rows_R):
        needed = "with a mask" if plan.only_masked else "with a label"
        raise TrainingError(f"'{plan.title}' has no training instance", allowed=f"at least one {needed} that is not held out")
    # The steps are those of all usable rows, also for a training that reads only the labelled ones.
    num = int(usable_N.sum())
    size = min(plan.train.batch_size, num)
    share = None if plan.only_labelled else plan.labelled_share
    if share is not None and (labelled_N[rows_R].all() or not labelled_N[rows_R].any()):
        of = "labelled" if labelled_N[rows_R].all() else "unlabelled"
        raise TrainingError(
            f"distill.labelled_share is {share}, but all {len(rows_R)} training instances are {of}",
            allowed="instances of both kinds (distill.labelled_fraction, distill.use_unlabelled), or no labelled_share",
        )
    return TrainingRows(labelled_N, rows_R, size, share, num // size)


def epoch_order(streams: Sequence[tuple[Rows, int]], *, steps: int, seed: int, epoch: int, rank: int, world: int) -> list[Rows]:
    """The rows of each batch of one worker, shuffled by (seed, epoch); any number of workers shares the same batches.

    ``streams`` are sets of rows, each with the number of rows that it gives to a batch. A set with more rows than all batches
    need gives each of them at most once, as in HRNet's training; a smaller one begins again in another order.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.int64).view(np.uint64)))
    drawn = [_repeated(generator, rows, steps * each).reshape(steps, each) for rows, each in streams]
    return [batch[rank::world] for batch in np.concatenate(drawn, axis=1)]


def _repeated(generator: np.random.Generator, rows: Rows, count: int) -> Rows:
    """``count`` rows in random order, each as often as the others, give or take one."""
    rounds = -(-count // len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:count]
