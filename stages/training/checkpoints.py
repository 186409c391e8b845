"""Checkpoints of a training: network, optimizer and progress, saved as parts of the draft and found again after a crash."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass

import torch
from torch import nn

from stages.training.curve import METRICS
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import MARKER, finish_part, read_part

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Progress:
    """How far a training is: the epoch that comes next or is under way (from 0), and the losses of its finished steps."""

    epoch: int = 0
    losses: tuple[float, ...] = ()


def save_checkpoint(folder: StorePath, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Save a checkpoint with the curve so far as a part in ``folder``, and delete all but the two newest."""
    name, work = _name(progress), folder.mirror()
    path = work / f"{name}.pt"
    state = {"epoch": progress.epoch - 1, "losses": list(progress.losses)}
    # By way of memory: on a full disk, torch.save to a file raises a RuntimeError that does not say so.
    data = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), **state}, data)
    path.write_bytes(data.getbuffer())
    # The curve belongs to the checkpoint: a run that continues from it continues the curve too.
    curve = path.with_suffix(".jsonl")
    shutil.copyfile(work / METRICS, curve)
    # The driver reads the progress from this file.
    folder.share([METRICS])
    finish_part(folder, name, [path.name, curve.name])
    for old in _finished(folder)[:-_KEPT_CHECKPOINTS]:
        for suffix in (MARKER, ".jsonl", ".pt"):
            (folder / f"{old}{suffix}").unlink(missing_ok=True)
            (work / f"{old}{suffix}").unlink(missing_ok=True)


def load_checkpoint(
    folder: StorePath, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, *, with_curve: bool
) -> Progress:
    """Load the newest checkpoint that verifies into ``network`` and ``optimizer``; without one, the start of the training.

    ``with_curve`` restores ``metrics.jsonl`` too.
    """
    work = folder.mirror()
    if with_curve:
        # Remove a file that may be a link to the file of a writer whose parts were adopted.
        work.mkdir(parents=True, exist_ok=True)
        (work / METRICS).unlink(missing_ok=True)
    for name in reversed(_finished(folder)):
        # read_part logs a damaged checkpoint; the one before it is used.
        if read_part(folder, name) is None:
            continue
        state = torch.load(work / f"{name}.pt", map_location=device, weights_only=True)
        if with_curve:
            shutil.copyfile(work / f"{name}.jsonl", work / METRICS)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(state["epoch"] + 1, tuple(state.get("losses", ())))
    return Progress()


def _name(progress: Progress) -> str:
    if progress.losses:
        return f"epoch-{progress.epoch:05d}-step-{len(progress.losses):08d}"
    return f"epoch-{progress.epoch - 1:05d}"


def _finished(folder: StorePath) -> list[str]:
    """The names of the finished checkpoints, oldest first."""
    # By the markers' names: "-step-" sorts before ".part.json", so a checkpoint within an epoch comes before its end.
    names = sorted(path.name for path in folder.children()[1])
    return [name.removesuffix(MARKER) for name in names if name.startswith("epoch-") and name.endswith(MARKER)]
