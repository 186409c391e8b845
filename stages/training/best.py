"""The weights of the epoch with the best AP so far, as a part of the draft: a run that continues finds them again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stages.networks.weights import fit_weights
from stages.training.curve import read_curve
from storage_schemas.errors import CorruptEntryError, Remedy
from storage_schemas.formats.checkpoints import encode_checkpoint, load_weights
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import MARKER, finish_part, read_part

__all__ = ["best_ap", "load_best", "save_best"]


def best_ap(folder: StorePath, before: int) -> tuple[float, int]:
    """The best AP of the epochs before ``before``, and the first epoch that has it; (-1, -1) if none was scored."""
    scored = [(line["AP"], -line["epoch"]) for line in read_curve(folder) if "AP" in line and line["epoch"] < before]
    ap, epoch = max(scored, default=(-1.0, 1))
    return ap, -epoch


def save_best(folder: StorePath, network: nn.Module, description: Mapping[str, str], epoch: int) -> None:
    """Save the weights of ``epoch``, and delete those of an earlier one."""
    (folder.mirror() / _file(epoch)).write_atomic(encode_checkpoint(network.state_dict(), description))
    finish_part(folder, _name(epoch), [_file(epoch)])
    _, earlier = best_ap(folder, epoch)
    if earlier >= 0:
        for name in (f"{_name(earlier)}{MARKER}", _file(earlier)):
            (folder / name).unlink(missing_ok=True)
            (folder.mirror() / name).unlink(missing_ok=True)


def load_best(folder: StorePath, network: nn.Module, epochs: int) -> None:
    """Load the best weights of a training of so many ``epochs`` into ``network``.

    Raises:
        CorruptEntryError: they are missing or damaged.
    """
    _, epoch = best_ap(folder, epochs)
    if read_part(folder, _name(epoch)) is None:
        raise CorruptEntryError(
            f"The weights of the best epoch ({epoch + 1}) are missing in {folder}",
            allowed="the file as the training wrote it",
            remedy=Remedy("run", text="the same command trains again", stage="distill", force=True),
        )
    file = folder.mirror() / _file(epoch)
    fit_weights(network, load_weights(file).state, source=str(file))


def _name(epoch: int) -> str:
    return f"best-{epoch:05d}"


def _file(epoch: int) -> str:
    return f"{_name(epoch)}.safetensors"
