"""Store entries with drawn content, committed as stage targets does, in a store of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bench.drawn import DrawnDataset, draw_instances, heatmaps
from pipeline.bench.scale import Scale
from stages.data.crops import crop_mask, heatmap_mask
from stages.data.views import Views, draw_views
from stages.pose.affine import heatmap_size
from stages.pose.binarize import binarize
from stages.progress import progress
from stages.settings import AugmentSettings, BinarizeSettings, Role
from stages.targets.block_task import part_name
from storage_schemas.formats.instances import Instances
from storage_schemas.formats.targets import (
    ArraySpec,
    block_files,
    create_arrays,
    metadata_files,
    pack_bits,
    rows_per_block,
    target_arrays,
    view_arrays,
    write_block,
)
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store

__all__ = ["Arrays", "CachedView", "Data", "write_entry"]

_VIEW = 1
_AUGMENT = AugmentSettings()
_RULE = BinarizeSettings()
_ROLES: tuple[Role, ...] = ("primary", "senior")

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class CachedView:
    """One augmented view of some instances, and both teachers' targets of it."""

    instances: Instances
    views: Views
    view: Entry
    targets: Mapping[Role, Entry]


class Data:
    """The data of all parts, drawn below ``folder`` on first use."""

    def __init__(self, folder: LocalPath, scale: Scale) -> None:
        self.folder, self.scale = folder, scale

    @cached_property
    def dataset(self) -> DrawnDataset:
        """The images and their instances."""
        return draw_instances(self.folder, images=self.scale.images, crop_wh=self.scale.crop_wh)

    @cached_property
    def cached(self) -> CachedView:
        """A view of ``scale.rows`` instances, and both teachers' targets of it."""
        store, crop_wh = Store(self.folder / "store"), self.scale.crop_wh
        instances = self.dataset.repeated(self.scale.rows)
        views = draw_views(instances, _VIEW, seed=0, augment=_AUGMENT, size_wh=crop_wh)
        view = _view_entry(store, instances, views, crop_wh)
        targets = {role: _target_entry(store, view, instances, views, role, crop_wh) for role in _ROLES}
        return CachedView(instances, views, view, targets)


def write_entry(
    store: Store,
    kind: str,
    recipe: Mapping[str, Any],
    *,
    specs: tuple[ArraySpec, ...],
    num: int,
    block_of: Callable[[int, int], Arrays],
) -> Entry:
    """An entry of ``num`` rows, written and committed as stage targets does; ``block_of(start, stop)`` gives its rows."""
    size = rows_per_block(num)
    with store.draft(kind, recipe) as draft, progress(f"bench: drawing {kind}", num, "instances") as bar:
        assert isinstance(draft, Draft), "a benchmark's store is new"
        create_arrays(draft.work, specs, num)
        files = metadata_files(specs)
        for block, start in enumerate(range(0, num, size)):
            stop = min(start + size, num)
            write_block(draft.work, block, block_of(start, stop))
            names = block_files(specs, block)
            finish_part(draft.folder, part_name(block), names, notes={"bad": 0})
            files += names
            bar.advance(stop - start)
        return draft.commit(files, measured={"rows": num, "shard_rows": size})


def _view_entry(store: Store, instances: Instances, views: Views, crop_wh: tuple[int, int]) -> Entry:
    def block_of(start: int, stop: int) -> Arrays:
        masks = np.stack([_mask(instances, views, row, crop_wh) for row in range(start, stop)])
        return {
            "affine": views.affine_N23[start:stop],
            "flip": views.flip_N[start:stop],
            "mask": pack_bits(masks),
            "has_mask": instances.has_mask_N[start:stop],
        }

    recipe = {"bench": "drawn instances", "crop_wh": crop_wh, "view": _VIEW, "augment": _AUGMENT.model_dump()}
    specs = view_arrays(heatmap_size(crop_wh))
    return write_entry(store, "views", recipe, specs=specs, num=len(instances.id_N), block_of=block_of)


def _mask(instances: Instances, views: Views, row: int, crop_wh: tuple[int, int]) -> npt.NDArray[np.bool_]:
    rle = instances.mask_rle[row].as_py()
    assert rle is not None, "every drawn instance has a mask"
    image = int(instances.image_N[row])
    image_wh = (int(instances.width_M[image]), int(instances.height_M[image]))
    return heatmap_mask(crop_mask(rle, views.affine_N23[row], image_wh=image_wh, size_wh=crop_wh))


def _target_entry(store: Store, view: Entry, instances: Instances, views: Views, role: Role, crop_wh: tuple[int, int]) -> Entry:
    def block_of(start: int, stop: int) -> Arrays:
        heat_BKHW = heatmaps(instances, views, np.arange(start, stop), role, crop_wh=crop_wh)
        bits, peak, _ = binarize(
            torch.from_numpy(heat_BKHW), mode=_RULE.mode, threshold=_RULE.threshold, min_peak=_RULE.min_peak, keep=_RULE.keep
        )
        return {"bits": pack_bits(bits.numpy()), "peak": peak.numpy().astype(np.float16)}

    recipe = {"view": view.key, "teacher": f"drawn {role}", "mask": role == "senior", "binarize": _RULE.model_dump()}
    specs = target_arrays(heatmap_size(crop_wh), instances.keypoints_NK3.shape[1])
    return write_entry(store, "targets", recipe, specs=specs, num=len(instances.id_N), block_of=block_of)
