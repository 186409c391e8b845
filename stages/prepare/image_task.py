"""The Ray task of stage prepare: it reads and hashes images, and stores the windows of their instances."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stages.data.coco import Record
from stages.data.exif import keeps_size
from stages.data.images import ImageError, read_image
from stages.data.windows import WindowWriter
from storage_schemas.formats.windows import StoredWindow
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import finish_part

__all__ = ["ImagesJob", "ImagesResult", "crashed", "pieces", "read_images"]

_PIECES = 16


@dataclass(frozen=True, kw_only=True)
class ImagesJob:
    """One task: some images, each with its records, and the folder and the part of their windows (None to store none)."""

    part: str
    root: StorePath
    images: tuple[tuple[Record, ...], ...]
    windows: StorePath | None


@dataclass(frozen=True, kw_only=True)
class ImagesResult:
    """What was found: facts and windows, and images that viewers turn.

    ``facts`` has for each image id its facts, or the reason why the image cannot be used. ``turned`` has the EXIF orientations
    that the sizes of the images do not show, by file name.
    """

    facts: dict[int, FileFacts | str] = field(default_factory=dict)
    windows: list[StoredWindow] = field(default_factory=list)
    turned: dict[str, int] = field(default_factory=dict)


def read_images(job: ImagesJob) -> ImagesResult:
    """The Ray task of this stage: read and hash images, and store the windows of their instances."""
    result = ImagesResult()
    writer = WindowWriter(job.windows.mirror(), job.part) if job.windows else None
    for records in job.images:
        first = records[0]
        size_wh = (first.width, first.height)
        try:
            result.facts[first.image_id], image_hw3, orientation = read_image(job.root, first.file_name, size_wh)
        except ImageError as error:
            result.facts[first.image_id] = str(error)
            continue
        if keeps_size(orientation, size_wh):
            result.turned[first.file_name] = orientation
        if writer:
            writer.add(image_hw3, records)
    if writer is None or job.windows is None:
        return result
    writer.flush()
    finish_part(job.windows, job.part, sorted({window.shard for window in writer.written}))
    return replace(result, windows=writer.written)


def pieces(job: ImagesJob) -> list[tuple[ImagesJob, int]]:
    """The job in smaller ones, each with its number of images; none if it has a single image."""
    if len(job.images) == 1:
        return []
    size = -(-len(job.images) // _PIECES)
    cuts = [job.images[start : start + size] for start in range(0, len(job.images), size)]
    return [(replace(job, part=f"{job.part}-{number:02d}", images=cut), len(cut)) for number, cut in enumerate(cuts)]


def crashed(job: ImagesJob) -> ImagesResult:
    """The result of a job of one image that ends each process that reads it."""
    reason = "decode: each process that read this image, and no other one, was killed or crashed"
    return ImagesResult(facts={records[0].image_id: reason for records in job.images})
