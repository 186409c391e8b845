"""The training loop of one worker, from a plan to weights; it can resume after every epoch, and within a long one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.data.loader import CropLoader
from stages.data.views import Views, draw_views
from stages.networks.device import on_device
from stages.networks.load import format_of, load_network
from stages.settings import Role
from stages.training.attempt import Attempt
from stages.training.best import best_ap, load_best, save_best
from stages.training.cached_targets import CachedTargets
from stages.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from stages.training.curve import METRICS, CurveWriter
from stages.training.finite import require_finite
from stages.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.rows import training_rows
from stages.training.step import Trainer
from stages.training.validate import Validator
from storage_schemas.errors import Remedy, TrainingError
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.instances import read_instances
from storage_schemas.formats.targets import read_rows
from storage_schemas.store.parts import finish_part

__all__ = ["WEIGHTS", "Worker", "train"]

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"
_TRAINED = "trained"
_MOST_WORKERS = 1 << 20
"""Keeps the random streams of (epoch, worker) apart."""
_CHECKPOINT_SECONDS = 600.0
"""The most that a killed training loses, but for some steps: a longer epoch is saved within."""
_LOOK_STEPS = 32
"""The workers agree on whether it is time to save only this often, since a GPU waits while they do."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """This process among the workers of a training, and its collective operations."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    threads: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    """Wraps the network so that gradients are averaged over all workers (DistributedDataParallel)."""
    barrier: Callable[[], None] = lambda: None
    mean: Callable[[Tensor], Tensor] = lambda value: value
    """The mean of a value over all workers; all workers must call it."""


def train(plan: TrainingPlan, worker: Worker) -> None:
    """Train from the newest checkpoint in ``plan.folder`` (or from the start) to the last epoch, and save the weights there.

    Raises:
        TrainingError: the loss or the weights are not finite. Nothing of this is saved.
        SupersededError: another process has taken this training over.
    """
    torch.set_num_threads(worker.threads)
    session = _Session(plan, worker)
    try:
        for epoch in range(session.resumed.epoch, len(plan.epochs)):
            session.run_epoch(epoch)
        if session.attempt:
            session.attempt.require_newest()
            session.save_weights(plan.keep_best)
            finish_part(plan.folder, _TRAINED, [WEIGHTS, METRICS])
        worker.barrier()
    finally:
        session.close()


class _Session:
    """A worker's network, optimizer and data, from the first epoch to the last."""

    def __init__(self, plan: TrainingPlan, worker: Worker) -> None:
        self.plan, self.worker = plan, worker
        self.device = torch.device(f"cuda:{worker.local_rank}" if plan.device == "cuda" else "cpu")
        self.instances = read_instances(plan.instances.fetch())
        self.rows = training_rows(self.instances, plan)
        if self.rows.batch_size < worker.world:
            raise TrainingError(
                f"'{plan.title}' has {self.rows.batch_size} training instances and {worker.world} workers",
                allowed="at least one instance for each worker; for a senior, instances with a mask",
            )
        # An own generator: the first weights do not depend on other random numbers that this process has drawn.
        first = torch.Generator().manual_seed(plan.seed)
        network = load_network(
            plan.network, size_wh=plan.input_wh, num_keypoints=self.instances.skeleton.num_keypoints, generator=first
        )
        self.network = on_device(network, self.device)
        self.network.train()
        self.optimizer = make_optimizer(self.network, plan.train, adapter_lr=plan.adapter_lr)
        self.resumed = self._resume()
        self._check_that_all_resume_alike()
        self.saved_at = time.monotonic()
        self.trainer = Trainer(plan, worker.wrap(self.network), self.optimizer, self.device, self.rows.labelled_N)
        self.loader = CropLoader(self.instances, plan.images, size_wh=plan.input_wh, threads=_loader_threads(plan, worker))
        self.targets = CachedTargets(plan.epochs, decodes=worker.local_rank == 0, barrier=worker.barrier)
        self.curve: CurveWriter | None = None
        self.attempt: Attempt | None = None
        self.validator: Validator | None = None
        if worker.rank == 0:
            if plan.validate_every:
                self.validator = Validator(self.instances, plan, threads=_loader_threads(plan, worker))
            self.attempt = Attempt(plan.folder)
            done = self.resumed.epoch * self.rows.steps + len(self.resumed.losses)
            self.curve = CurveWriter(plan, first_epoch=self.resumed.epoch, done_steps=done)

    def save_weights(self, keep_best: bool) -> None:
        """Write the result of the training; with ``keep_best``, of the epoch with the best AP."""
        plan = self.plan
        if keep_best:
            load_best(plan.folder, self.network, len(plan.epochs))
        save_weights(plan.folder.mirror() / WEIGHTS, self.network, self._description())

    def _description(self) -> dict[str, str]:
        plan = self.plan
        return {"network": plan.network.network or "program", **format_of(plan.network).description}

    def close(self) -> None:
        self.loader.close()
        self.targets.close()
        if self.curve:
            self.curve.close()

    def run_epoch(self, epoch: int) -> None:
        plan, epoch_plan = self.plan, self.plan.epochs[epoch]
        # Seeded by epoch, so that a resumed training draws the same numbers as an unbroken one; each worker draws its own.
        generator = np.random.Generator(np.random.Philox(key=[plan.seed, epoch * _MOST_WORKERS + self.worker.rank]))
        order = self.rows.batches(seed=plan.seed, epoch=epoch, rank=self.worker.rank, world=self.worker.world)
        losses = [torch.tensor(loss, device=self.device) for loss in self.resumed.losses if epoch == self.resumed.epoch]
        done = len(losses)
        self.trainer.skip(order[:done], generator=generator)
        total_steps = len(order) * len(plan.epochs)
        bits = self.targets.of_epoch(epoch)
        peaks = self._peaks(epoch_plan) if plan.weight_by_peak else {}
        views = [self._views(epoch_plan)]
        loaded = self.loader.batches(order[done:], views, crop_divisor=plan.size_divisor, with_mask=plan.feed_mask)
        for index, (batch,) in enumerate(loaded, done):
            step = epoch * len(order) + index
            set_learning_rate(self.optimizer, learning_rate_factor(step, total_steps, plan.train))
            harder = self._harder(step) if plan.hard else None
            loss = self.trainer.step(batch, epoch_plan.weights, bits, generator=generator, harder=harder, peaks=peaks)
            losses.append(loss)
            if self.curve:
                self.curve.add_step(epoch, step, total_steps, len(batch.rows_B) * self.worker.world)
            if index + 1 < len(order) and self._is_time_to_save(index + 1):
                means = self._mean_losses(losses).tolist()
                require_finite(plan.title, epoch, means, self.network, self.optimizer)
                self._save(Progress(epoch, tuple(means)))
        self._end_epoch(epoch, losses)

    def _end_epoch(self, epoch: int, losses: Sequence[Tensor]) -> None:
        # Over the workers first: a resumed epoch knows only their mean of earlier steps, and must get the same loss.
        means = self._mean_losses(losses)
        require_finite(self.plan.title, epoch, means.tolist(), self.network, self.optimizer)
        if self.curve:
            self.curve.end_epoch(epoch, float(means.mean()), self.optimizer.param_groups[0]["lr"], ap=self._validated(epoch))
        self._save(Progress(epoch + 1))
        self.worker.barrier()

    def _validated(self, epoch: int) -> float | None:
        """The AP after an epoch that is to be scored; the weights are kept if it is the best so far."""
        plan = self.plan
        if self.validator is None or ((epoch + 1) % plan.validate_every and epoch + 1 < len(plan.epochs)):
            return None
        ap = self.validator.ap(self.network)
        if plan.keep_best and self.attempt and ap > best_ap(plan.folder, epoch)[0]:
            self.attempt.require_newest()
            save_best(plan.folder, self.network, self._description(), epoch)
        return ap

    def _harder(self, step: int) -> np.random.Generator:
        """A generator for each step: a resumed epoch need not draw again what its finished steps drew."""
        counter = np.array([0, 0, 1 + self.worker.rank, step], np.uint64)
        return np.random.Generator(np.random.Philox(key=[self.plan.seed, 0], counter=counter))

    def _is_time_to_save(self, steps: int) -> bool:
        """Whether to save after ``steps`` steps of the epoch; all workers follow the first worker's clock."""
        if steps % _LOOK_STEPS:
            return False
        is_due = self.worker.rank == 0 and time.monotonic() - self.saved_at >= _CHECKPOINT_SECONDS
        return bool(self.worker.mean(torch.tensor(float(is_due), device=self.device)) > 0)

    def _mean_losses(self, losses: Sequence[Tensor]) -> Tensor:
        """Each step's loss as the mean over the workers, so that another number of workers can resume with it."""
        return self.worker.mean(torch.stack(list(losses)))

    def _save(self, progress: Progress) -> None:
        if self.attempt:
            self.attempt.require_newest()
            save_checkpoint(self.plan.folder, self.network, self.optimizer, progress)
        self.saved_at = time.monotonic()

    def _views(self, epoch_plan: EpochPlan) -> Views:
        if epoch_plan.views is not None:
            folder = epoch_plan.views.fetch()
            affine_N23 = read_rows(folder, "affine").astype(np.float32)
            return Views(affine_N23, read_rows(folder, "flip").astype(np.bool_))
        plan = self.plan
        return draw_views(self.instances, epoch_plan.view, seed=plan.views_seed, augment=plan.augment, size_wh=plan.crop_wh)

    def _peaks(self, epoch_plan: EpochPlan) -> dict[Role, npt.NDArray[np.float32]]:
        """The peaks [N, K] of the heatmaps of each teacher of an epoch."""
        return {role: read_rows(folder.fetch(), "peak").astype(np.float32) for role, folder in epoch_plan.targets().items()}

    def _resume(self) -> Progress:
        plan = self.plan
        progress = load_checkpoint(plan.folder, self.network, self.optimizer, self.device, with_curve=self.worker.rank == 0)
        if progress != Progress():
            steps = f" and {len(progress.losses)} steps" if progress.losses else ""
            log.info("%s: resuming after epoch %d of %d%s", plan.title, progress.epoch, len(plan.epochs), steps)
        return progress

    def _check_that_all_resume_alike(self) -> None:
        """Raise ``TrainingError`` in all workers if one of them has found another checkpoint than the others."""
        resumed = self.resumed
        place = torch.tensor([resumed.epoch, len(resumed.losses)], dtype=torch.float64, device=self.device)
        mean, mean_of_squares = self.worker.mean(torch.stack([place, place**2]))
        if not torch.equal(mean**2, mean_of_squares):
            raise TrainingError(
                f"The workers of '{self.plan.title}' found different checkpoints: here it is epoch {resumed.epoch + 1}",
                allowed="storage on which every node sees the same files",
                remedy=Remedy("repeat"),
            )


def _loader_threads(plan: TrainingPlan, worker: Worker) -> int:
    return plan.train.loader_threads or max(1, worker.threads - 1)
