"""Part crops: crops for training, cut out of whole images or out of the windows that ``prepare.crops`` stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bench.results import Part, Row
from pipeline.bench.scale import FULL, Scale
from pipeline.bench.timing import Subject, interleaved, one_core, ratio
from stages.data.coco import read_coco, sort_out
from stages.data.images import ImageError, read_image
from stages.data.loader import CropLoader
from stages.data.views import Views, draw_views
from stages.data.windows import ImageSource, WindowWriter
from stages.pose.skeleton import COCO_17
from stages.progress import progress
from stages.settings import AugmentSettings
from storage_schemas.errors import DataError
from storage_schemas.formats.instances import Instances, Record
from storage_schemas.formats.windows import StoredWindow, write_index
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath

__all__ = ["Photographs", "find_photographs", "measure_crops"]

_BATCH = 64
_VIEW = 1


@dataclass(frozen=True)
class Photographs:
    """A data set to read crops from: its instances, and the folder of the images."""

    records: Sequence[Record]
    root: LocalPath


def find_photographs(annotations: LocalPath, root: LocalPath) -> Photographs:
    """Read the instances of a COCO annotations file.

    Raises:
        DataError: the file cannot be read, or has no usable instance.
    """
    width, height = FULL.crop_wh
    records = sort_out(read_coco(annotations, COCO_17), aspect_wh=width / height).records
    if not records:
        raise DataError(f"{annotations} has no usable instance", allowed="instances with keypoints")
    return Photographs(records, root)


def measure_crops(photographs: Photographs, scale: Scale, folder: LocalPath) -> Part:
    """Crops per second on one core, from images and from windows, of the same instances in the same order.

    Raises:
        DataError: an image cannot be used.
    """
    instances, written = _store(photographs, folder)
    views = draw_views(instances, _VIEW, seed=0, augment=AugmentSettings(), size_wh=scale.crop_wh)
    num = min(scale.cropped, len(instances.id_N))
    generator = np.random.default_rng(0)
    orders = [generator.choice(len(instances.id_N), num, replace=False) for _ in range(scale.crop_rounds)]
    with ExitStack() as stack:
        loaders = {
            name: stack.enter_context(closing(CropLoader(instances, source, size_wh=scale.crop_wh, threads=1)))
            for name, source in (("whole", ImageSource(photographs.root)), ("stored", ImageSource(photographs.root, folder)))
        }
        stack.enter_context(one_core())
        subjects = {name: _epoch(loader, views, orders) for name, loader in loaders.items()}
        seconds = interleaved(subjects, rounds=scale.crop_rounds, title="crops")
    rates = {name: num / float(np.median(found)) for name, found in seconds.items()}
    width, height = scale.crop_wh
    return Part(
        "crops",
        f"crops of {height}x{width} for a training, on one core",
        "out of whole images",
        (
            Row("out of whole images", rates["whole"], "crops/s"),
            Row("with stored windows (prepare.crops)", rates["stored"], "crops/s", ratio(seconds["whole"], seconds["stored"])),
        ),
        (
            f"{len(instances.id_N):,} instances on {len(instances.image_id_M):,} images of "
            f"{_mean_pixels(instances) / 1e6:.2f} megapixels and {instances.bytes_M.mean() / 1e3:.0f} KB on average",
            f"{len(written) / len(instances.id_N):.0%} have a window, of {_mean_bytes(written) / 1e3:.0f} KB on average; "
            "of the others, and of crops that leave their window, the image is decoded",
            f"{scale.crop_rounds} rounds of {num:,} instances of one augmented view, in random order; files in the page cache",
        ),
    )


def _store(photographs: Photographs, folder: LocalPath) -> tuple[Instances, list[StoredWindow]]:
    """The instance table, and the windows, which are written as stage prepare writes them."""
    by_image: dict[int, list[Record]] = defaultdict(list)
    for record in photographs.records:
        by_image[record.image_id].append(record)
    folder.mkdir()
    writer, facts = WindowWriter(folder, "windows"), dict[int, FileFacts]()
    with progress("bench: storing crops", len(by_image), "images") as bar:
        for image_id, records in by_image.items():
            first = records[0]
            try:
                facts[image_id], image_hw3, _ = read_image(photographs.root, first.file_name, (first.width, first.height))
            except ImageError as error:
                raise DataError(f"The image '{first.file_name}' below {photographs.root} cannot be used: {error}") from error
            writer.add(image_hw3, records)
            bar.advance()
    writer.flush()
    write_index(folder, writer.written)
    return Instances.from_records(photographs.records, facts, COCO_17), writer.written


def _epoch(loader: CropLoader, views: Views, orders: Sequence[npt.NDArray[np.int64]]) -> Subject:
    def run(turn: int) -> None:
        order = orders[turn]
        for _ in loader.batches(np.split(order, range(_BATCH, len(order), _BATCH)), [views]):
            pass

    return run


def _mean_pixels(instances: Instances) -> float:
    return float((instances.width_M.astype(np.int64) * instances.height_M).mean())


def _mean_bytes(written: Sequence[StoredWindow]) -> float:
    return float(np.mean([window.bytes for window in written])) if written else 0.0
