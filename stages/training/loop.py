"""The training loop of one worker: from a plan to weights, resumable after every epoch, and within a long one."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.data.loader import CropLoader, epoch_order
from stages.data.views import Views, draw_views
from stages.networks.device import on_device
from stages.networks.spec import load_network
from stages.training.cached_targets import TeacherMaps
from stages.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from stages.training.plan import EpochPlan, TrainingPlan
from stages.training.step import Learner
from storage_schemas.errors import TrainingError
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.formats.targets import read_rows
from storage_schemas.paths.node_cache import here
from storage_schemas.paths.path import StorePath, children, files_below, mirror, upload
from storage_schemas.store.parts import MARKER, finish_part, read_part

__all__ = ["METRICS", "WEIGHTS", "Worker", "train", "training_rows"]

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
_TRAINED = "trained"
_KEPT_CHECKPOINTS = 2
_MOST_WORKERS = 1 << 20
"""Keeps the random streams of (epoch, worker) apart."""
_LINE_SECONDS = 2.0
_CHECKPOINT_SECONDS = 600.0
"""What a killed training loses at most, but for some steps: an epoch that takes longer is saved within."""
_LOOK_STEPS = 32
"""The workers agree on whether it is time to save only so often, since asking each other makes a GPU wait."""


@dataclass(frozen=True)
class Worker:
    """This process among the workers, and how it is joined to them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    threads: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    """Makes gradients those of all workers together (DistributedDataParallel)."""
    barrier: Callable[[], None] = lambda: None
    mean: Callable[[Tensor], Tensor] = lambda value: value
    """The mean over all workers of a value that each of them has; all must ask for it."""


def training_rows(instances: Instances, plan: TrainingPlan) -> npt.NDArray[np.int64]:
    """The rows of the table that are trained on: never those held out, and only people with a mask where it is needed."""
    wanted = ~instances.holdout_N
    if plan.people == "masked":
        wanted = wanted & instances.has_mask_N
    return np.flatnonzero(wanted)


def train(plan: TrainingPlan, worker: Worker) -> None:
    """Train from the newest checkpoint in ``plan.folder`` (or from the start) to the last epoch, and save the weights there.

    Raises:
        TrainingError: the loss is not finite.
    """
    torch.set_num_threads(worker.threads)
    session = _Session(plan, worker)
    try:
        for epoch in range(session.begun.epoch, len(plan.epochs)):
            session.run_epoch(epoch)
        if worker.rank == 0:
            description = {"network": plan.network.network or "program"}
            save_weights(mirror(plan.folder) / WEIGHTS, session.network, description)
            finish_part(plan.folder, _TRAINED, [WEIGHTS, METRICS])
        worker.barrier()
    finally:
        session.close()


@dataclass(frozen=True)
class _Begun:
    """Where a training goes on: the epoch (from 0), and the losses of those of its steps that are done."""

    epoch: int = 0
    losses: tuple[float, ...] = ()


class _Session:
    """A worker's network, optimizer and data between epochs."""

    def __init__(self, plan: TrainingPlan, worker: Worker) -> None:
        self.plan, self.worker = plan, worker
        self.device = torch.device(f"cuda:{worker.local_rank}" if plan.device == "cuda" else "cpu")
        self.work = mirror(plan.folder)
        self.instances = read_instances(here(plan.instances))
        self.rows_N = training_rows(self.instances, plan)
        if len(self.rows_N) < worker.world:
            raise TrainingError(
                f"'{plan.title}' has {len(self.rows_N)} people to learn from and {worker.world} workers",
                allowed="at least one person for each worker; for a senior, people with a mask",
            )
        # A generator of its own: first weights do not depend on what else has drawn numbers in this process.
        first = torch.Generator().manual_seed(plan.seed)
        network = load_network(plan.network, size_wh=plan.input_wh, generator=first)
        self.network = on_device(network, self.device)
        self.network.train()
        self.optimizer = make_optimizer(self.network, plan.train, adapter_lr=plan.adapter_lr)
        self.begun = self._resume()
        self._see_that_all_begin_alike()
        self.saved_at = time.monotonic()
        self.learner = Learner(plan, worker.wrap(self.network), self.optimizer, self.device)
        self.loader = CropLoader(self.instances, plan.pictures, size_wh=plan.input_wh, threads=_loader_threads(plan, worker))
        self.maps = TeacherMaps(plan.epochs, decodes=worker.local_rank == 0, barrier=worker.barrier)
        self.curve: _Curve | None = None
        if worker.rank == 0:
            done = self.begun.epoch * len(self._order(0)) + len(self.begun.losses)
            self.curve = _Curve(plan, first_epoch=self.begun.epoch, done_steps=done)

    def close(self) -> None:
        self.loader.close()
        self.maps.close()
        if self.curve:
            self.curve.close()

    def run_epoch(self, epoch: int) -> None:
        plan, source = self.plan, self.plan.epochs[epoch]
        # Seeded by epoch, so that a resumed training draws what an unbroken one does; each worker draws its own.
        generator = np.random.Generator(np.random.Philox(key=[plan.seed, epoch * _MOST_WORKERS + self.worker.rank]))
        order = self._order(epoch)
        losses = [torch.tensor(loss, device=self.device) for loss in self.begun.losses if epoch == self.begun.epoch]
        done = len(losses)
        self.learner.skip(order[:done], generator=generator)
        batches = (self.rows_N[positions] for positions in order[done:])
        total_steps = len(order) * len(plan.epochs)
        teachers = self.maps.of_epoch(epoch)
        loaded = self.loader.batches(batches, [self._views(source)], crop_divisor=plan.size_divisor, with_mask=plan.feed_mask)
        for index, (batch,) in enumerate(loaded, done):
            step = epoch * len(order) + index
            set_learning_rate(self.optimizer, learning_rate_factor(step, total_steps, plan.train))
            losses.append(self.learner.step(batch, source.weights, teachers, generator=generator))
            if self.curve:
                self.curve.step(epoch, step, total_steps, len(batch.rows_B) * self.worker.world)
            if index + 1 < len(order) and self._is_time_to_save(index + 1):
                self._save_within(epoch, losses)
        # Over the workers first: so a resumed epoch, which knows only their mean of earlier steps, has the same loss.
        loss = float(self.worker.mean(torch.stack(losses)).mean())
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss of '{plan.title}' is {loss} in epoch {epoch + 1}",
                allowed="a finite loss; a lower train.lr or train.precision=float32 usually mends it",
            )
        if self.curve:
            self.curve.end_epoch(epoch, loss, self.optimizer.param_groups[0]["lr"])
            self._save_checkpoint(f"epoch-{epoch:05d}", {"epoch": epoch})
        self.saved_at = time.monotonic()
        self.worker.barrier()

    def _order(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """This worker's part of each batch of an epoch, as positions among the rows that are trained on."""
        plan, worker = self.plan, self.worker
        return epoch_order(
            len(self.rows_N),
            batch_size=plan.train.batch_size,
            seed=plan.seed,
            epoch=epoch,
            rank=worker.rank,
            world=worker.world,
        )

    def _is_time_to_save(self, steps: int) -> bool:
        """Whether the epoch is to be saved after ``steps`` of its steps: the first worker's clock says so, to all."""
        if steps % _LOOK_STEPS:
            return False
        is_due = self.worker.rank == 0 and time.monotonic() - self.saved_at >= _CHECKPOINT_SECONDS
        return bool(self.worker.mean(torch.tensor(float(is_due), device=self.device)) > 0)

    def _save_within(self, epoch: int, losses: Sequence[Tensor]) -> None:
        # The mean over the workers: whoever goes on, however many they are, has the same epoch's loss at its end.
        told = self.worker.mean(torch.stack(list(losses))).tolist()
        if self.worker.rank == 0:
            self._save_checkpoint(f"epoch-{epoch:05d}-step-{len(told):08d}", {"epoch": epoch - 1, "losses": told})
        self.saved_at = time.monotonic()

    def _views(self, source: EpochPlan) -> Views:
        if source.views is not None:
            folder = here(source.views)
            affine_N23 = read_rows(folder, "affine").astype(np.float32)
            return Views(affine_N23, read_rows(folder, "flip").astype(np.bool_))
        plan = self.plan
        return draw_views(self.instances, source.view, seed=plan.views_seed, augment=plan.augment, size_wh=plan.crop_wh)

    def _save_checkpoint(self, name: str, place: dict[str, Any]) -> None:
        """``place``: the last finished ``epoch``, and the ``losses`` of the steps after it."""
        path = self.work / f"{name}.pt"
        torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), **place}, path)
        # The curve so far goes with it: whoever takes over the part goes on with the curve too.
        curve = path.with_suffix(".jsonl")
        shutil.copyfile(self.work / METRICS, curve)
        # Where the driver sees how far it is.
        upload(self.plan.folder, [METRICS])
        finish_part(self.plan.folder, name, [path.name, curve.name])
        for old in _checkpoints(self.plan.folder)[:-_KEPT_CHECKPOINTS]:
            for suffix in (MARKER, ".jsonl", ".pt"):
                (self.plan.folder / f"{old}{suffix}").unlink(missing_ok=True)
                (self.work / f"{old}{suffix}").unlink(missing_ok=True)

    def _resume(self) -> _Begun:
        if self.worker.rank == 0:
            # As a file of its own: that of a writer that was taken over is that one's too.
            self.work.mkdir(parents=True, exist_ok=True)
            (self.work / METRICS).unlink(missing_ok=True)
        for name in reversed(_checkpoints(self.plan.folder)):
            # A checkpoint whose bytes are not those that were written says so in the log, and the one before it is used.
            if read_part(self.plan.folder, name) is None:
                continue
            state = torch.load(self.work / f"{name}.pt", map_location=self.device, weights_only=True)
            if self.worker.rank == 0:
                shutil.copyfile(self.work / f"{name}.jsonl", self.work / METRICS)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            begun = _Begun(state["epoch"] + 1, tuple(state.get("losses", ())))
            log.info(
                "%s: going on after epoch %d of %d%s",
                self.plan.title,
                begun.epoch,
                len(self.plan.epochs),
                f" and {len(begun.losses)} steps" if begun.losses else "",
            )
            return begun
        return _Begun()

    def _see_that_all_begin_alike(self) -> None:
        """Raise ``TrainingError``, in all workers, if one has found another checkpoint than the others."""
        place = torch.tensor([self.begun.epoch, len(self.begun.losses)], dtype=torch.float64, device=self.device)
        mean, mean_of_squares = self.worker.mean(torch.stack([place, place**2]))
        if not torch.equal(mean**2, mean_of_squares):
            raise TrainingError(
                f"The workers of '{self.plan.title}' found different checkpoints: here epoch {self.begun.epoch + 1}",
                allowed="storage that shows every node the same files",
                run="the same command again",
            )


def _checkpoints(folder: StorePath) -> list[str]:
    """The names of those that are finished, oldest first."""
    # By the markers' names: within an epoch comes before its end, as "-step-" comes before ".part.json".
    names = sorted(path.name for path in children(folder)[1])
    return [name.removesuffix(MARKER) for name in names if name.startswith("epoch-") and name.endswith(MARKER)]


def _loader_threads(plan: TrainingPlan, worker: Worker) -> int:
    return plan.train.loader_threads or max(1, worker.threads - 1)


class _Curve:
    """What a training tells while it runs: ``metrics.jsonl`` (a line every few seconds and one an epoch) and TensorBoard."""

    def __init__(self, plan: TrainingPlan, *, first_epoch: int, done_steps: int) -> None:
        self._path = mirror(plan.folder) / METRICS
        self._keep_until(done_steps)
        self._stream = self._path.open("a")
        self._step = done_steps
        self._people, self._since, self._started = 0, time.monotonic(), time.monotonic()
        self._events = None
        self._shared_events = plan.events
        if plan.events is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What earlier runs have left on this node is not this one's to bring up.
            self._others = set(files_below(mirror(plan.events)))
            self._events = SummaryWriter(str(mirror(plan.events)), purge_step=first_epoch)

    def _keep_until(self, done_steps: int) -> None:
        """Drop the lines of steps that are going to be run again, so that each epoch stands once."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= done_steps]
        self._path.write_text("".join(f"{line}\n" for line in kept))

    def step(self, epoch: int, step: int, total_steps: int, people: int) -> None:
        self._step = step + 1
        self._people += people
        now = time.monotonic()
        if now - self._since >= _LINE_SECONDS:
            rate = self._people / (now - self._since)
            self._write({"epoch": epoch, "step": step + 1, "steps": total_steps, "people_per_s": round(rate, 1)})
            self._people, self._since = 0, now

    def end_epoch(self, epoch: int, loss: float, lr: float) -> None:
        self._write(
            {"epoch": epoch, "step": self._step, "loss": loss, "lr": lr, "seconds": round(time.monotonic() - self._started, 3)}
        )
        if self._events is not None:
            self._events.add_scalar("loss", loss, epoch)
            self._events.add_scalar("lr", lr, epoch)
            self._events.flush()
            assert self._shared_events is not None
            try:
                upload(self._shared_events, files_below(mirror(self._shared_events)).keys() - self._others)
            except OSError as error:
                log.warning("TensorBoard's events of this epoch did not get to %s: %s", self._shared_events, error)

    def _write(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
        if self._events is not None:
            self._events.close()
