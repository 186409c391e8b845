"""Running networks over people as Ray tasks: the network is loaded once a process, heatmaps never leave the worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.base import Context, Device
from stages.data.loader import Batch, CropLoader, batches_ahead
from stages.data.views import draw_views
from stages.data.windows import Pictures
from stages.distributed.tasks import run_tasks, task_options, worker_threads
from stages.networks.device import on_device
from stages.networks.load import load_network
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec
from stages.pose.decode import dark_kernel_of, decode, to_image
from stages.pose.flip import flip_merge
from stages.pose.skeleton import Skeleton
from stages.settings import AugmentSettings, DecoderName
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.paths.path import File

__all__ = ["DECODERS", "Runner", "predict", "runner"]

DECODERS: tuple[DecoderName, ...] = ("quarter", "dark", "centroid")
_TASK_PEOPLE = 256

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Runner:
    """A network on a device, ready to be fed with batches of crops."""

    network: nn.Module
    device: torch.device
    precision: Literal["float32", "bfloat16"]
    feed_mask: bool
    skeleton: Skeleton

    def heatmaps(self, batch: Batch, *, flip: bool = False) -> Tensor:
        """float32 maps [B, K, H, W]; with ``flip`` the mean with those of the mirrored crop (HRNet's flip test)."""
        image_B3hw = self._tensor(batch.image_Bhw3).permute(0, 3, 1, 2)
        mask_B1hw = self._tensor(batch.mask_Bhw)[:, None].float() if self.feed_mask else None
        has_mask_B = self._tensor(batch.has_mask_B).float()
        heat_BKHW = self._forward(image_B3hw, mask_B1hw, has_mask_B)
        if not flip:
            return heat_BKHW
        mirrored = None if mask_B1hw is None else mask_B1hw.flip(-1)
        return flip_merge(heat_BKHW, self._forward(image_B3hw.flip(-1), mirrored, has_mask_B), skeleton=self.skeleton)

    def _forward(self, image_B3hw: Tensor, mask_B1hw: Tensor | None, has_mask_B: Tensor) -> Tensor:
        inputs = (normalize(image_B3hw),) if mask_B1hw is None else (normalize(image_B3hw), mask_B1hw, has_mask_B)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            # Channels come last out of most networks, and whatever looks at single maps is slow then.
            return cast(Tensor, self.network(*inputs)).float().contiguous()

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


@lru_cache(maxsize=4)
def runner(
    spec: NetworkSpec,
    skeleton: Skeleton,
    size_wh: tuple[int, int],
    device: Device,
    precision: Literal["float32", "bfloat16"],
    threads: int,
) -> Runner:
    """The network of ``spec``, loaded once in this process."""
    torch.set_num_threads(threads)
    network = load_network(spec, size_wh=size_wh, onnx_threads=threads, device=device)
    place = torch.device(device)
    return Runner(on_device(network, place), place, precision, spec.senior, skeleton)


@dataclass(frozen=True)
class _Job:
    """Some rows of a table of people, and what runs over them."""

    start: int
    stop: int
    people: File
    pictures: Pictures
    spec: NetworkSpec
    size_wh: tuple[int, int]
    divisor: int
    device: Device
    precision: Literal["float32", "bfloat16"]
    flip: bool
    withhold_mask: bool
    batch_size: int


def predict(
    context: Context,
    spec: NetworkSpec,
    people: File,
    pictures: Pictures,
    *,
    divisor: int = 1,
    flip: bool,
    withhold_mask: bool = False,
    precision: Literal["float32", "bfloat16"],
    title: str,
) -> dict[DecoderName, F32]:
    """Keypoints [N, K, 3] (x, y in image pixels, score) of everybody in the table ``people``, by every decoder.

    ``divisor`` is how much smaller the network's input is than the crop; ``withhold_mask`` gives a senior no masks.
    """
    settings = context.settings
    num = len(read_instances(people.fetch()).id_N)
    jobs = [
        _Job(
            start,
            min(start + _TASK_PEOPLE, num),
            people,
            pictures,
            spec,
            settings.crop.size_wh,
            divisor,
            context.device,
            precision,
            flip,
            withhold_mask,
            settings.evaluate.batch_size,
        )
        for start in range(0, num, _TASK_PEOPLE)
    ]
    sized = [(job, job.stop - job.start) for job in jobs]
    options = task_options(context, network=True)
    parts = dict[int, dict[DecoderName, F32]]()
    for job, result in run_tasks(_predict_rows, sized, options=options, title=title, unit="people"):
        parts[job.start] = result
    return {decoder: np.concatenate([parts[job.start][decoder] for job in jobs]) for decoder in DECODERS}


def _predict_rows(job: _Job) -> dict[DecoderName, F32]:
    instances = read_instances(job.people.fetch()).select(np.arange(job.start, job.stop))
    size_wh = (job.size_wh[0] // job.divisor, job.size_wh[1] // job.divisor)
    ready = runner(job.spec, instances.skeleton, size_wh, job.device, job.precision, worker_threads())
    found: dict[DecoderName, list[F32]] = {decoder: [] for decoder in DECODERS}
    for batch, affine_B23 in _plain_batches(instances, job, size_wh, with_mask=ready.feed_mask):
        heat_BKHW = ready.heatmaps(batch, flip=job.flip)
        kernel = dark_kernel_of((heat_BKHW.shape[3], heat_BKHW.shape[2]))
        for decoder in DECODERS:
            xy_BK2, score_BK = decode(heat_BKHW, decoder=decoder, dark_kernel=kernel)
            keypoints = np.concatenate([to_image(xy_BK2, affine_B23), score_BK.cpu().numpy()[..., None]], axis=-1)
            found[decoder].append(keypoints.astype(np.float32))
    return {decoder: np.concatenate(parts) for decoder, parts in found.items()}


def _plain_batches(
    instances: Instances, job: _Job, size_wh: tuple[int, int], *, with_mask: bool
) -> Iterator[tuple[Batch, npt.NDArray[np.float64]]]:
    views = draw_views(instances, 0, seed=0, augment=AugmentSettings(), size_wh=job.size_wh)
    loader = CropLoader(instances, job.pictures, size_wh=size_wh, threads=worker_threads(), ahead=batches_ahead(job.device))
    num = len(instances.id_N)
    rows = (np.arange(start, min(start + job.batch_size, num)) for start in range(0, num, job.batch_size))
    try:
        for (batch,) in loader.batches(rows, [views], crop_divisor=job.divisor, with_mask=with_mask):
            if job.withhold_mask:
                batch.has_mask_B[:] = False
            yield batch, views.affine_N23[batch.rows_B].astype(np.float64) / job.divisor
    finally:
        loader.close()
