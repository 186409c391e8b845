"""Predictions of a network for all instances of a table, as Ray tasks; heatmaps do not leave the worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stages.base import Context, Device
from stages.data.loader import Batch, CropLoader, batches_ahead
from stages.data.views import draw_views
from stages.data.windows import ImageSource
from stages.distributed.run_tasks import run_tasks, task_options, worker_threads
from stages.inference import DECODERS, decode_to_image, load_predictor
from stages.networks.spec import NetworkSpec
from stages.pose.flip import FlipTest
from stages.settings import AugmentSettings, DecoderName
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.paths.path import File

__all__ = ["predict"]

_TASK_INSTANCES = 256

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Some rows of an instance table, and the network that predicts on them."""

    start: int
    stop: int
    table: File
    images: ImageSource
    spec: NetworkSpec
    crop_wh: tuple[int, int]
    divisor: int
    device: Device
    precision: Literal["float32", "bfloat16"]
    flip: FlipTest
    withhold_mask: bool
    swap_colours: bool
    batch_size: int


def predict(
    context: Context,
    spec: NetworkSpec,
    table: File,
    images: ImageSource,
    *,
    divisor: int = 1,
    flip: FlipTest,
    withhold_mask: bool = False,
    swap_colours: bool = False,
    precision: Literal["float32", "bfloat16"],
    title: str,
) -> dict[DecoderName, F32]:
    """Keypoints [N, K, 3] (x, y in image pixels, score) of every instance in ``table``, by each decoder.

    Args:
        context: the run.
        spec: the network and its weights.
        table: the instance table.
        images: where the crops come from.
        divisor: the crop's size divided by this is the network's input size.
        flip: average with the heatmaps of the mirrored crops, and how these are mirrored.
        withhold_mask: give a senior no masks.
        swap_colours: give the network BGR crops, to see whether it expects them.
        precision: of the network.
        title: of the progress line.
    """
    settings = context.settings
    num = len(read_instances(table.fetch()).id_N)
    jobs = [
        _Job(
            start=start,
            stop=min(start + _TASK_INSTANCES, num),
            table=table,
            images=images,
            spec=spec,
            crop_wh=settings.crop.size_wh,
            divisor=divisor,
            device=context.device,
            precision=precision,
            flip=flip,
            withhold_mask=withhold_mask,
            swap_colours=swap_colours,
            batch_size=settings.evaluate.batch_size,
        )
        for start in range(0, num, _TASK_INSTANCES)
    ]
    sized = [(job, job.stop - job.start) for job in jobs]
    options = task_options(context, images.root, network=True)
    parts = dict[int, dict[DecoderName, F32]]()
    for job, result in run_tasks(_predict_rows, sized, options=options, title=title, unit="instances"):
        parts[job.start] = result
    return {decoder: np.concatenate([parts[job.start][decoder] for job in jobs]) for decoder in DECODERS}


def _predict_rows(job: _Job) -> dict[DecoderName, F32]:
    instances = read_instances(job.table.fetch()).select(np.arange(job.start, job.stop))
    size_wh = (job.crop_wh[0] // job.divisor, job.crop_wh[1] // job.divisor)
    predictor = load_predictor(job.spec, instances.skeleton, size_wh, job.device, job.precision, worker_threads())
    found: dict[DecoderName, list[F32]] = {decoder: [] for decoder in DECODERS}
    for batch, affine_B23 in _plain_batches(instances, job, size_wh, with_mask=predictor.feed_mask):
        heat_BKHW = predictor.heatmaps(batch, flip=job.flip)
        for decoder in DECODERS:
            found[decoder].append(decode_to_image(heat_BKHW, affine_B23, decoder=decoder))
    return {decoder: np.concatenate(parts) for decoder, parts in found.items()}


def _plain_batches(
    instances: Instances, job: _Job, size_wh: tuple[int, int], *, with_mask: bool
) -> Iterator[tuple[Batch, npt.NDArray[np.float64]]]:
    """Batches of plain crops (view 0), and the affines from image pixels to the pixels of these crops."""
    views = draw_views(instances, 0, seed=0, augment=AugmentSettings(), size_wh=job.crop_wh)
    loader = CropLoader(instances, job.images, size_wh=size_wh, threads=worker_threads(), ahead=batches_ahead(job.device))
    num = len(instances.id_N)
    rows = (np.arange(start, min(start + job.batch_size, num)) for start in range(0, num, job.batch_size))
    try:
        for (batch,) in loader.batches(rows, [views], crop_divisor=job.divisor, with_mask=with_mask):
            if job.withhold_mask:
                batch.has_mask_B[:] = False
            if job.swap_colours:
                batch.image_Bhw3[:] = batch.image_Bhw3[..., ::-1].copy()
            yield batch, views.affine_N23[batch.rows_B].astype(np.float64) / job.divisor
    finally:
        loader.close()
