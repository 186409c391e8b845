"""The curve of a training: ``metrics.jsonl``, with a line every few seconds and one an epoch, and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import Any

from stages.training.plan import TrainingPlan
from storage_schemas.paths.path import StorePath

__all__ = ["METRICS", "CurveWriter", "last_step", "read_curve"]

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_LINE_SECONDS = 2.0


class CurveWriter:
    """Writes the curve; only the first worker of a training has one."""

    def __init__(self, plan: TrainingPlan, *, first_epoch: int, done_steps: int) -> None:
        self._path = plan.folder.mirror() / METRICS
        self._drop_lines_after(done_steps)
        self._stream = self._path.open("a")
        self._step = done_steps
        self._instances, self._since, self._started = 0, time.monotonic(), time.monotonic()
        self._events = None
        self._shared_events = plan.events
        if plan.events is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Files of earlier runs on this node are not uploaded by this run.
            self._others = set(plan.events.mirror().files_below())
            self._events = SummaryWriter(str(plan.events.mirror()), purge_step=first_epoch)

    def _drop_lines_after(self, done_steps: int) -> None:
        """Remove the lines of steps that will be trained again, so that the curve holds each epoch once."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= done_steps]
        self._path.write_text("".join(f"{line}\n" for line in kept))

    def add_step(self, epoch: int, step: int, total_steps: int, instances: int) -> None:
        """Count a step of ``instances`` instances, and write the speed every few seconds."""
        self._step = step + 1
        self._instances += instances
        now = time.monotonic()
        if now - self._since >= _LINE_SECONDS:
            rate = self._instances / (now - self._since)
            self._write({"epoch": epoch, "step": step + 1, "steps": total_steps, "instances_per_s": round(rate, 1)})
            self._instances, self._since = 0, now

    def end_epoch(self, epoch: int, loss: float, lr: float, *, ap: float | None = None) -> None:
        """Write the epoch's loss, and its AP on held-out people if there is one, and upload the TensorBoard events."""
        seconds = round(time.monotonic() - self._started, 3)
        scored = {} if ap is None else {"AP": ap}
        self._write({"epoch": epoch, "step": self._step, "loss": loss, "lr": lr, **scored, "seconds": seconds})
        if self._events is not None:
            self._events.add_scalar("loss", loss, epoch)
            self._events.add_scalar("lr", lr, epoch)
            if ap is not None:
                self._events.add_scalar("AP", ap, epoch)
            self._events.flush()
            assert self._shared_events is not None
            try:
                self._shared_events.share(self._shared_events.mirror().files_below().keys() - self._others)
            except OSError as error:
                log.warning("The TensorBoard events of this epoch could not be written to %s: %s", self._shared_events, error)

    def _write(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the files."""
        self._stream.close()
        if self._events is not None:
            self._events.close()


def last_step(folder: StorePath) -> int:
    """The number of steps that the curve in ``folder`` has counted so far."""
    lines = _lines(folder)
    return int(lines[-1]["step"]) if lines else 0


def read_curve(folder: StorePath) -> list[dict[str, Any]]:
    """The finished epochs of a curve: epoch, step, loss, lr, seconds, and AP where the network was scored."""
    return [line for line in _lines(folder) if "loss" in line]


def _lines(folder: StorePath) -> list[dict[str, Any]]:
    try:
        whole = (folder / METRICS).read_bytes().decode()
    except FileNotFoundError:
        return []
    lines = []
    for text in whole.splitlines():
        # The last line can be incomplete while the worker writes it.
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines
