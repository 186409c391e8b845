"""Images that are in the training set and in the validation set: on them AP measures memory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from stages.base import Context
from stages.findings import Finding
from stages.prepare.stage import INSTANCES, instances_step
from storage_schemas.formats.instances import read_columns

__all__ = ["shared_images"]


def shared_images(context: Context) -> list[Finding]:
    """One finding if images of the validation set are, by their content, in the training set too; nothing without tables."""
    train, val = (context.find(instances_step(context, split)) for split in ("train", "val"))
    return [] if train is None or val is None else _compared(train.path(INSTANCES), val.path(INSTANCES))


@lru_cache(maxsize=8)
def _compared(train: Path, val: Path) -> list[Finding]:
    """The finding for two tables; a run asks after each of its stages."""
    hashes: set[str] = set(*read_columns(train, "image_sha256"))
    names = dict(zip(*read_columns(val, "image_sha256", "file_name"), strict=True))
    shared = sorted(name for sha256, name in names.items() if sha256 in hashes)
    if not shared:
        return []
    seen = f"{len(shared)} of {len(names)} images of the validation set are in the training set too, such as {shared[0]}"
    remedy = "AP on them measures what the networks remember: remove them from one of the two annotation files"
    return [Finding(kind="shared_images", seen=seen, remedy=remedy, count=len(shared), of=len(names), example=shared[0])]
