"""Part filling: one process fills the cache, compared with the bare forward pass of the same network on ready tensors."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bench.device import Machine
from pipeline.bench.entries import Data
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.scale import Scale
from pipeline.bench.timing import Subject, interleaved, ratio
from stages.data.loader import CropLoader
from stages.data.views import draw_views
from stages.data.windows import ImageSource
from stages.inference import load_predictor
from stages.networks.load import load_network
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec
from stages.pose.affine import heatmap_size
from stages.pose.skeleton import COCO_17
from stages.settings import AugmentSettings, BinarizeSettings
from stages.targets.block_task import BlockJob, BlockOutput, BlockTeacher, BlockView, fill_block
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.instances import Instances, write_instances
from storage_schemas.formats.targets import create_arrays, target_arrays, view_arrays
from storage_schemas.paths.local import LocalPath

__all__ = ["measure_filling"]

_ASK = Ask("ratio", least=0.9)
_TABLE = "filled.parquet"
_VIEWS = 4
"""Views of a task that fills several at once, as a first run does; the presets have many more."""
_HEIGHT = 0.3
"""Height of one standard deviation of an untrained network's map, after its head is scaled."""
_FLOOR = 2.0
"""Such a map is 0 this many standard deviations above its mean."""


def measure_filling(data: Data, machine: Machine) -> Part:
    """Crops per second, and their ratio to the bare forward pass."""
    scale = data.scale
    torch.set_num_threads(machine.threads)
    instances = data.dataset.repeated(scale.fill_instances)
    write_instances(data.folder / _TABLE, instances)
    images = _ready_images(instances, data, machine)
    spec = _untrained(data.folder / "teacher.safetensors", scale, images[0])
    network = load_predictor(spec, COCO_17, scale.crop_wh, machine.device, machine.precision, machine.threads).network
    # Arrays are created before: stage targets creates them once for all blocks. One round is not counted.
    rounds = range(scale.fill_rounds + 1)
    single = [_job(data, machine, spec, scale.fill_instances, num=scale.filled_rows) for _ in rounds]
    # The same number of crops, of fewer instances.
    several = [_job(data, machine, spec, scale.fill_instances // _VIEWS, views=_VIEWS) for _ in rounds]

    def fill(jobs: list[BlockJob]) -> Subject:
        return lambda _: fill_block(jobs.pop(), threads=machine.threads)

    def forward(_: int) -> None:
        for image_B3hw in images:
            machine.forward(network, image_B3hw)

    subjects = {"fill": fill(single), "fill several": fill(several), "forward": forward}
    seconds = interleaved(subjects, rounds=scale.fill_rounds, title="filling", synchronize=machine.synchronize)
    rates = {name: scale.fill_instances / float(np.median(found)) for name, found in seconds.items()}
    width, height = scale.crop_wh
    return Part(
        "filling",
        f"filling the cache with {scale.teachers[0]} at {height}x{width}, batches of {scale.fill_batch}",
        "the bare forward",
        (
            Row("bare forward on ready tensors", rates["forward"], "crops/s"),
            Row("filling one view", rates["fill"], "crops/s", ratio(seconds["forward"], seconds["fill"]), _ASK),
            Row(
                f"filling {_VIEWS} views at once",
                rates["fill several"],
                "crops/s",
                ratio(seconds["forward"], seconds["fill several"]),
                _ASK,
            ),
        ),
        (
            f"{scale.fill_rounds} rounds of {scale.fill_instances:,} crops: decode, crop, forward, binarize, pack, write",
            f"JPEG images of 640x480 and {_image_bytes(data) / 1e3:.0f} KB on average, in the page cache",
            f"each view with its masks and one teacher's targets of it are written; one process, {machine}",
            "the network is not trained; its head is scaled so that its maps have peaks",
        ),
        drawn="ratio",
    )


def _image_bytes(data: Data) -> float:
    dataset = data.dataset
    return float(np.mean([(dataset.root / name).stat().st_size for name in dataset.instances.file_name_M]))


def _ready_images(instances: Instances, data: Data, machine: Machine) -> list[Tensor]:
    """The crops of the block, normalised, in batches on the device."""
    scale = data.scale
    views = draw_views(instances, 1, seed=0, augment=AugmentSettings(), size_wh=scale.crop_wh)
    loader = CropLoader(instances, ImageSource(data.dataset.root), size_wh=scale.crop_wh, threads=machine.threads)
    rows = np.split(np.arange(scale.fill_instances), range(scale.fill_batch, scale.fill_instances, scale.fill_batch))
    try:
        batches = [batch.image_Bhw3 for (batch,) in loader.batches(rows, [views])]
    finally:
        loader.close()
    return [normalize(torch.from_numpy(image_Bhw3).to(machine.device).permute(0, 3, 1, 2)) for image_Bhw3 in batches]


def _untrained(path: LocalPath, scale: Scale, image_B3hw: Tensor) -> NetworkSpec:
    """Initial weights, with the head scaled so that each map has peaks near 1 and is below 0 elsewhere.

    Without that, maps would be 1e-11 high and have no bits.
    """
    name = scale.teachers[0]
    generator, num = torch.Generator().manual_seed(0), COCO_17.num_keypoints
    network = load_network(NetworkSpec(network=name), size_wh=scale.crop_wh, num_keypoints=num, generator=generator)
    with torch.no_grad():
        heat_BKHW = network(image_B3hw.cpu())
        mean_K, std_K = heat_BKHW.mean(dim=(0, 2, 3)), heat_BKHW.std(dim=(0, 2, 3))
        *_, head = (module for module in network.modules() if isinstance(module, nn.Conv2d))
        assert head.bias is not None
        head.weight.mul_((_HEIGHT / std_K)[:, None, None, None])
        head.bias.copy_(-_HEIGHT * (mean_K / std_K + _FLOOR))
    save_weights(path, network, {"network": name})
    return NetworkSpec(network=name, weights=path)


def _job(data: Data, machine: Machine, spec: NetworkSpec, stop: int, *, num: int | None = None, views: int = 1) -> BlockJob:
    """One task of stage targets: the first ``stop`` of ``num`` instances (None: all), each missing view in its own draft."""
    scale, num = data.scale, num or stop
    return BlockJob(
        block=0,
        start=0,
        stop=stop,
        num=num,
        instances=data.folder / _TABLE,
        images=ImageSource(data.dataset.root),
        views=tuple(_view(data, spec, number, num) for number in range(1, views + 1)),
        size_wh=scale.crop_wh,
        seed=0,
        augment=AugmentSettings(),
        device=machine.device,
        precision=machine.precision,
        batch_size=scale.fill_batch,
        score=False,
    )


def _view(data: Data, spec: NetworkSpec, number: int, num: int) -> BlockView:
    """A view to write, and one teacher's targets of it."""
    crop_wh, draft = data.scale.crop_wh, LocalPath(tempfile.mkdtemp(dir=data.folder))
    heatmap_wh = heatmap_size(crop_wh)
    view, targets = draft / "view", draft / "targets"
    create_arrays(view, view_arrays(heatmap_wh), num)
    create_arrays(targets, target_arrays(heatmap_wh, COCO_17.num_keypoints), num)
    output = BlockOutput(rule=BinarizeSettings(), folder=targets)
    teacher = BlockTeacher(role="primary", spec=spec, outputs=(output,))
    return BlockView(view=number, stored=None, draft=view, teachers=(teacher,))
