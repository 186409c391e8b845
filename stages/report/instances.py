"""The instances that the report shows: how they are chosen, and the images of what each network predicts for them.

Shape letters: N instances, P poses, K joints, h w crop pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.base import ROLES, Context
from stages.data.loader import Batch, CropLoader
from stages.data.views import Views
from stages.pose.affine import apply_affine
from stages.pose.skeleton import Skeleton
from stages.prepare.stage import INSTANCES, image_source_of, instances_step
from stages.report.names import NAMES
from stages.report.page.content import ShownInstance, Tile
from stages.report.page.overlays import draw_bits, draw_errors, draw_mask, draw_pose, enlarge, tile_height
from stages.report.scores import Compared
from stages.scoring.network_scores import PREDICTIONS
from stages.scoring.oks import keypoint_similarity
from stages.settings import DecoderName
from stages.targets.stage import target_step, view_step
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.formats.predictions import read_predictions
from storage_schemas.formats.targets import read_rows, unpack_bits

__all__ = ["best_poses", "instance_oks", "shown_instances", "spread_ranks"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_MIN_VISIBLE = 5
_VISIBLE = 2  # COCO's flag; 1 is labelled but hidden
_TILES = 8
_TILES_WORST = 2


def instance_oks(pose_PK3: F32, truth_K3: F32, area: float, *, skeleton: Skeleton) -> F64:
    """OKS [P] of each of P poses with one instance, over its labelled joints (COCO keypoint evaluation)."""
    labelled_K = truth_K3[:, 2] > 0
    squared_PK = np.square(pose_PK3[..., :2].astype(np.float64) - truth_K3[:, :2]).sum(axis=-1)
    similarity_PK = keypoint_similarity(squared_PK, area, skeleton=skeleton)
    oks_P: F64 = similarity_PK[:, labelled_K].sum(axis=1) / max(int(labelled_K.sum()), 1)
    return oks_P


def spread_ranks(num: int, wanted: int) -> I64:
    """``wanted`` positions spread evenly over a ranking of ``num``; all positions if there are fewer."""
    count = min(num, wanted)
    return np.floor((np.arange(count) + 0.5) / max(count, 1) * num).astype(np.int64)


@dataclass(frozen=True)
class Poses:
    """One network's pose of each instance, with its OKS and score; both are 0 for an instance without a prediction."""

    pose_NK3: F32
    oks_N: F64
    score_N: F64
    kept_N: npt.NDArray[np.bool_]


def best_poses(instances: Instances, columns: dict[str, npt.NDArray[np.generic]], pose_PK3: F32, *, by_id: bool) -> Poses:
    """For each instance its own prediction (``by_id``), or else the one with the highest OKS of all in its image."""
    image_id_N = instances.image_id_M[instances.image_N]
    names, wanted_N = ("instance_id", instances.id_N) if by_id else ("image_id", image_id_N)
    rows_of: dict[int, list[int]] = {}
    for row, key in enumerate(columns[names].tolist()):
        rows_of.setdefault(key, []).append(row)
    num, skeleton = len(instances.id_N), instances.skeleton
    pose_NK3 = np.zeros((num, skeleton.num_keypoints, 3), np.float32)
    found = Poses(pose_NK3, np.zeros(num), np.zeros(num), np.zeros(num, bool))
    for index, key in enumerate(wanted_N.tolist()):
        if rows := rows_of.get(key):
            oks = instance_oks(
                pose_PK3[rows], instances.keypoints_NK3[index], float(instances.area_N[index]), skeleton=skeleton
            )
            best = rows[int(np.argmax(oks))]
            found.pose_NK3[index], found.oks_N[index] = pose_PK3[best], oks.max()
            found.score_N[index], found.kept_N[index] = columns["score"][best], columns["kept"][best]
    return found


def shown_instances(
    context: Context, networks: Sequence[Compared], decoder: DecoderName
) -> tuple[list[ShownInstance], list[ShownInstance]]:
    """Instances spread over the student's OKS, and its worst cases; only instances with enough visible joints are used."""
    table = read_instances(context.need(instances_step(context, "val")).path(INSTANCES))
    poses = {
        item.key: best_poses(table, *read_predictions(item.entry.path(PREDICTIONS), decoder), by_id=item.by_instance)
        for item in networks
        if NAMES[item.key].short
    }
    clear = np.flatnonzero((table.keypoints_NK3[..., 2] == _VISIBLE).sum(axis=1) >= _MIN_VISIBLE)
    # The best first. The id breaks ties, so that every run shows the same instances.
    ranked = clear[np.lexsort((table.id_N[clear], -poses["student"].oks_N[clear]))]
    settings = context.settings.report
    drawn = _Drawing(context, table, poses)
    overlays = ranked[spread_ranks(len(ranked), settings.overlays)]
    worst = ranked[::-1][: settings.worst]
    crops = drawn.crops(np.unique(np.concatenate([overlays, worst])))
    seen_by_all = [drawn.seen_by_all(row, crops[row]) for row in overlays.tolist()]
    return seen_by_all, [drawn.worst(row, crops[row]) for row in worst.tolist()]


_OKS_ORDER = ("student", "baseline", "primary", "senior")


class _Drawing:
    """Draws instances from the plain view of the validation set, its bits, and the poses of every network."""

    def __init__(self, context: Context, table: Instances, poses: dict[str, Poses]) -> None:
        self._context, self._table, self._poses = context, table, poses
        crops = context.need(view_step(context, "val", 0))
        context.check(crops)
        self._affine_N23 = read_rows(crops.fetch(), "affine").astype(np.float32)
        self._flip_N = read_rows(crops.fetch(), "flip").astype(np.bool_)
        self._bits = {}
        for role in ROLES:
            entry = context.need(target_step(context, role, "val", 0, context.settings.binarize))
            context.check(entry)
            self._bits[NAMES[role].short] = entry.fetch()
        report, size_wh = context.settings.report, context.settings.crop.size_wh
        self._height = tile_height(_TILES * report.overlays + _TILES_WORST * report.worst, size_wh=size_wh)

    def crops(self, rows: I64) -> dict[int, Batch]:
        """The crop and the mask of each row, as a batch of one instance."""
        context, size_wh = self._context, self._context.settings.crop.size_wh
        loader = CropLoader(self._table, image_source_of(context, "val"), size_wh=size_wh, threads=1)
        try:
            views = [Views(self._affine_N23, self._flip_N)]
            batches = loader.batches((np.array([row]) for row in rows), views, with_mask=True)
            return {int(batch.rows_B[0]): batch for (batch,) in batches}
        finally:
            loader.close()

    def seen_by_all(self, row: int, batch: Batch) -> ShownInstance:
        """The instance as labelled, as every network predicts it, as bits and as mask."""
        image, factor = enlarge(batch.image_Bhw3[0], height=self._height)
        tiles = [Tile("ground truth", self._truth(image, batch, factor))]
        tiles += [Tile(NAMES[role].short, self._predicted(image, role, row, factor)) for role in ROLES]
        tiles += [Tile(f"{short} bits", self._with_bits(image, short, row, factor)) for short in self._bits]
        caption = "mask" if batch.has_mask_B[0] else "mask (none)"
        tiles.append(Tile(caption, draw_mask(image, batch.mask_Bhw[0])))
        tiles += [Tile(arm, self._predicted(image, arm, row, factor)) for arm in ("student", "baseline") if arm in self._poses]
        oks = ", ".join(f"{NAMES[key].short} {self._poses[key].oks_N[row]:.2f}" for key in _OKS_ORDER if key in self._poses)
        return ShownInstance(self._heading(row), f"in {self._file_name(row)}; OKS: {oks}{self._dropped(row)}", tiles)

    def worst(self, row: int, batch: Batch) -> ShownInstance:
        """The instance as labelled, and as the student predicts it with its errors."""
        image, factor = enlarge(batch.image_Bhw3[0], height=self._height)
        predicted = self._predicted(image, "student", row, factor)
        truth_K3 = batch.keypoints_BK3[0]
        errors = draw_errors(
            predicted, self._in_crop("student", row), truth_K3[:, :2], factor=factor, labelled_K=truth_K3[:, 2] > 0
        )
        student = self._poses["student"]
        detail = (
            f"in {self._file_name(row)}; OKS {student.oks_N[row]:.2f}, score {student.score_N[row]:.2f}{self._dropped(row)}"
        )
        return ShownInstance(
            self._heading(row), detail, [Tile("ground truth", self._truth(image, batch, factor)), Tile("student", errors)]
        )

    def _heading(self, row: int) -> str:
        return f"Instance {self._table.id_N[row]}"

    def _file_name(self, row: int) -> str:
        return str(self._table.file_name_M[self._table.image_N[row]])

    def _dropped(self, row: int) -> str:
        return "" if self._poses["student"].kept_N[row] else "; OKS-NMS dropped the student's pose"

    def _truth(self, image: U8, batch: Batch, factor: float) -> U8:
        joints_K3 = batch.keypoints_BK3[0]
        return draw_pose(
            image,
            joints_K3[:, :2],
            skeleton=self._table.skeleton,
            factor=factor,
            shown_K=joints_K3[:, 2] > 0,
            solid_K=joints_K3[:, 2] == _VISIBLE,
        )

    def _predicted(self, image: U8, key: str, row: int, factor: float) -> U8:
        score_K = self._poses[key].pose_NK3[row, :, 2]
        return draw_pose(
            image,
            self._in_crop(key, row),
            skeleton=self._table.skeleton,
            factor=factor,
            shown_K=np.ones(len(score_K), bool),
            solid_K=score_K >= self._context.settings.evaluate.min_keypoint_score,
        )

    def _in_crop(self, key: str, row: int) -> F32:
        """The pose [K, 2] of a network in pixels of the crop."""
        affine_23 = self._affine_N23[row].astype(np.float64)
        return apply_affine(affine_23, self._poses[key].pose_NK3[row, :, :2]).astype(np.float32)

    def _with_bits(self, image: U8, short: str, row: int, factor: float) -> U8:
        return draw_bits(image, self._bits_of(short, row), skeleton=self._table.skeleton, factor=factor)

    def _bits_of(self, short: str, row: int) -> npt.NDArray[np.bool_]:
        width, height = self._context.heatmap_wh
        packed = read_rows(self._bits[short], "bits", row, row + 1).astype(np.uint8)
        bits_1KHW = unpack_bits(packed, (self._table.skeleton.num_keypoints, height, width))
        return bits_1KHW.squeeze(0)
