"""The Ray task of stage prepare: it reads and hashes images, and stores the windows of their instances."""

from __future__ import annotations

from dataclasses import dataclass

from stages.data.coco import Record
from stages.data.images import ImageError, read_image
from stages.data.windows import WindowWriter
from storage_schemas.formats.windows import StoredWindow
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import finish_part

__all__ = ["ImagesJob", "ImagesResult", "read_images"]


@dataclass(frozen=True, kw_only=True)
class ImagesJob:
    """One task: some images, each with its records, and the folder for their windows (None to store none)."""

    number: int
    root: StorePath
    images: tuple[tuple[Record, ...], ...]
    windows: StorePath | None


@dataclass(frozen=True, kw_only=True)
class ImagesResult:
    """For each image id its facts, or the reason why the image cannot be used; and the windows that were written."""

    facts: dict[int, FileFacts | str]
    windows: list[StoredWindow]


def read_images(job: ImagesJob) -> ImagesResult:
    """The Ray task of this stage: read and hash images, and store the windows of their instances."""
    found: dict[int, FileFacts | str] = {}
    part = f"windows-{job.number:05d}"
    writer = WindowWriter(job.windows.mirror(), part) if job.windows else None
    for records in job.images:
        first = records[0]
        try:
            found[first.image_id], image_hw3 = read_image(job.root, first.file_name, (first.width, first.height))
        except ImageError as error:
            found[first.image_id] = str(error)
            continue
        if writer:
            writer.add(image_hw3, records)
    if writer is None or job.windows is None:
        return ImagesResult(facts=found, windows=[])
    writer.flush()
    finish_part(job.windows, part, sorted({window.shard for window in writer.written}))
    return ImagesResult(facts=found, windows=writer.written)
