"""Drawn instances for the benchmark, and heatmaps like those of a teacher that finds most of their joints.

Shape letters: N instances, K joints, H W heatmap pixels, B rows of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.data.coco import read_coco, sort_out
from stages.data.crops import crop_keypoints
from stages.data.images import check_image
from stages.data.synthetic.dataset import SyntheticSpec, draw_dataset
from stages.data.views import Views
from stages.pose.affine import STRIDE, heatmap_size
from stages.pose.heatmap import sigma_of
from stages.pose.skeleton import COCO_17
from stages.progress import progress
from stages.settings import Role
from storage_schemas.formats.instances import Instances, Record, write_instances
from storage_schemas.paths.local import LocalPath

__all__ = ["DrawnDataset", "draw_instances", "heatmaps"]

_IMAGE_WH = (640, 480)
"""The most frequent image size of COCO, (W, H)."""
_PEAK = (0.25, 0.95)
_WEAK_PEAK = (0.03, 0.19)
_WEAK_SHARE = 0.12
"""Share of weak peaks in a crop; with joints outside of it, a quarter of all are weak, as for a real teacher."""
_SPREAD = (0.8, 1.4)
"""Range of a peak's spread along each axis, in units of the ground-truth sigma."""
_NOISE = 0.01
_SEEDS: dict[Role, int] = {"primary": 1, "senior": 2}

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DrawnDataset:
    """A drawn data set: its instances as a table and as records, the file of the table, and the folder of the images."""

    instances: Instances
    records: Sequence[Record]
    table: LocalPath
    root: LocalPath

    def repeated(self, num: int) -> Instances:
        """``num`` instances: these, repeated with new ids and so with other crops."""
        rows = np.arange(num) % len(self.instances.id_N)
        return replace(self.instances.select(rows), id_N=np.arange(num, dtype=np.int64))


def draw_instances(folder: LocalPath, *, images: int, crop_wh: tuple[int, int]) -> DrawnDataset:
    """Draw ``images`` images below ``folder``, and the table of their instances."""
    # Every instance of the validation set has all labels and a mask; ``heatmaps`` draws which joints are weak.
    spec = SyntheticSpec(train_images=1, val_images=images, seed=0, image_size_wh=_IMAGE_WH)
    with progress("bench: drawing images", images + 1, "images") as bar:
        draw_dataset(folder / "dataset", spec, progress=lambda done, _: bar.advance(done - bar.done))
    coco = read_coco(folder / "dataset" / "annotations" / "val.json", COCO_17)
    records = sort_out(coco, aspect_wh=crop_wh[0] / crop_wh[1]).records
    root = folder / "dataset" / "images"
    facts = {item.image_id: check_image(root, item.file_name, (item.width, item.height)) for item in records}
    dataset = DrawnDataset(Instances.from_records(records, facts, coco.skeleton), records, folder / "instances.parquet", root)
    write_instances(dataset.table, dataset.instances)
    return dataset


def heatmaps(instances: Instances, views: Views, rows_B: npt.NDArray[np.int64], role: Role, *, crop_wh: tuple[int, int]) -> F32:
    """Heatmaps [B, K, H, W] of a teacher: noise, and at each joint a Gaussian with random height and random spreads.

    Some peaks are too weak to be taught, as are those of joints outside the crop. A row does not depend on the other rows.
    """
    width, height = heatmap_size(crop_wh)
    joints_BK3 = crop_keypoints(
        instances.keypoints_NK3[rows_B], views.affine_N23[rows_B], views.flip_N[rows_B], skeleton=instances.skeleton
    )
    xy_BK2 = joints_BK3[..., :2] / STRIDE
    known_BK = np.all((xy_BK2 >= 0) & (xy_BK2 < (width, height)), axis=-1) & (joints_BK3[..., 2] > 0)
    heat_BKHW = np.empty((*known_BK.shape, height, width), np.float32)
    for index, row in enumerate(rows_B):
        generator = np.random.Generator(np.random.Philox(key=np.array([_SEEDS[role], row], np.uint64)))
        xy_K2, num = xy_BK2[index], len(xy_BK2[index])
        known_K = known_BK[index] & (generator.random(num) >= _WEAK_SHARE)
        peak_K = np.where(known_K, generator.uniform(*_PEAK, num), generator.uniform(*_WEAK_PEAK, num))
        spread_K2 = generator.uniform(*_SPREAD, (num, 2)) * sigma_of((width, height))
        x_KW = _gauss(np.arange(width) - xy_K2[:, :1], spread_K2[:, :1])
        y_KH = _gauss(np.arange(height) - xy_K2[:, 1:], spread_K2[:, 1:]) * peak_K[:, None]
        generator.standard_normal(dtype=np.float32, out=heat_BKHW[index])
        heat_BKHW[index] *= _NOISE
        heat_BKHW[index] += (y_KH[:, :, None] * x_KW[:, None, :]).astype(np.float32)
    return heat_BKHW


def _gauss(distance: F64, spread: F64) -> F64:
    found: F64 = np.exp(-0.5 * (distance / spread) ** 2)
    return found
