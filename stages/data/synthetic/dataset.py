"""The embedded data set: drawn people in a COCO folder, with difficulties of photographs and faults of human labels.

A counter-based generator draws every image from (seed, split, index) alone, so the bytes of an image do not depend on the
number of images, their order, or the process that draws them.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.data.synthetic.scene import Person, draw_scene
from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError, Remedy

__all__ = ["SYNTHETIC_VERSION", "SyntheticSpec", "draw_dataset"]

SYNTHETIC_VERSION = 1
"""Part of every key of the embedded data; increase it when the same spec draws other images or labels."""

Split = Literal["train", "val"]
Record = dict[str, Any]

# Faults of the training labels. Validation labels have none, so AP measures the network and not the labels.
UNLABELLED_SEEN_SHARE = 0.18
UNLABELLED_HIDDEN_SHARE = 0.44
# Standard deviation along x and along y, in units of k_i * sqrt(area) with k_i = 2 sigma_i; at 1 OKS is exp(-1/2).
JITTER_SHARE = 0.1
NO_MASK_SHARE = 0.15
RLE_SHARE = 0.2
MAX_OUTLINE_ERROR = 0.05  # of the mask's pixels; a mask with a larger error (holes) is stored as RLE

OUTLINE_TOLERANCE_PX = 0.7
MIN_VISIBLE_PX = 80  # instances with fewer visible pixels are not annotated
JPEG_QUALITY = 92
_VAL_IMAGE_IDS_FROM = 1_000_000

_SKELETON = [[first + 1, second + 1] for first, second in COCO_17.limbs]  # COCO counts keypoints from 1


@dataclass(frozen=True)
class SyntheticSpec:
    """What to draw: how many images for training and for validation, from which seed, of which size (W, H) in px."""

    train_images: int
    val_images: int
    seed: int
    image_size_wh: tuple[int, int] = (256, 192)
    unlabelled: float = 0.0
    """Share of the training people without a labelled keypoint."""

    def __post_init__(self) -> None:
        if min(self.train_images, self.val_images) < 1 or self.seed < 0:
            raise DataError(f"cannot draw {self}", allowed="at least one image a split, and a seed of 0 or more")
        if max(self.train_images, self.val_images) >= _VAL_IMAGE_IDS_FROM or min(self.image_size_wh) < 96:
            raise DataError(
                f"cannot draw {self}", allowed=f"fewer than {_VAL_IMAGE_IDS_FROM} images a split, sides of 96 px or more"
            )


def draw_dataset(folder: Path, spec: SyntheticSpec, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Draw the data set of ``spec`` into ``folder``: ``images/*.jpg``, ``annotations/train.json`` and ``annotations/val.json``.

    ``progress`` is called with the number of images done and the total. The folder gets its name only when it is complete.

    Raises:
        DataError: the folder exists.
    """
    if folder.exists():
        raise DataError(
            f"{folder} exists already",
            allowed="a folder that does not exist yet",
            remedy=Remedy("shell", text=f"rm -r {folder}"),
        )
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    (partial / "images").mkdir(parents=True)
    (partial / "annotations").mkdir()
    counts: dict[Split, int] = {"train": spec.train_images, "val": spec.val_images}
    total, done = sum(counts.values()), 0
    try:
        for split, count in counts.items():
            content = _empty_content(spec, split)
            for index in range(count):
                jpeg, image, annotations = _draw_image(spec, split, index)
                (partial / "images" / image["file_name"]).write_bytes(jpeg)
                content["images"].append(image)
                content["annotations"].extend(annotations)
                done += 1
                if progress is not None:
                    progress(done, total)
            (partial / "annotations" / f"{split}.json").write_text(json.dumps(content, separators=(",", ":")))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _empty_content(spec: SyntheticSpec, split: Split) -> Record:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_17.keypoints),
        "skeleton": _SKELETON,
    }
    info = {"description": "Drawn people, annotated like COCO", "split": split, "spec": asdict(spec)}
    return {"info": info, "licenses": [], "categories": [category], "images": [], "annotations": []}


def _draw_image(spec: SyntheticSpec, split: Split, index: int) -> tuple[bytes, Record, list[Record]]:
    """One image as JPEG, with its COCO image record and its annotations."""
    image_id = 1 + index + (_VAL_IMAGE_IDS_FROM if split == "val" else 0)
    rng = np.random.Generator(np.random.Philox(key=np.array([spec.seed, image_id], dtype=np.uint64)))
    scene = draw_scene(rng, spec.image_size_wh)
    width, height = spec.image_size_wh
    image = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height}
    annotations = [_person_record(rng, person, split) for person in scene.people if person.mask_hw.sum() >= MIN_VISIBLE_PX]
    if scene.crowd_hw is not None and scene.crowd_hw.sum() >= MIN_VISIBLE_PX:
        annotations.append(_crowd_record(scene.crowd_hw))
    # Drawn last: all else is the same for every share.
    is_unlabelled = rng.random(len(annotations)) < (spec.unlabelled if split == "train" else 0)
    for number, annotation in enumerate(annotations):
        if is_unlabelled[number]:
            annotation.update(keypoints=[0] * (3 * COCO_17.num_keypoints), num_keypoints=0)
        annotation.update(id=image_id * 10 + number, image_id=image_id, category_id=1)
    ok, encoded = cv2.imencode(".jpg", scene.image_hw3, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, "JPEG encoding of an 8-bit image cannot fail"
    return encoded.tobytes(), image, annotations


def _person_record(rng: np.random.Generator, person: Person, split: Split) -> Record:
    """The annotation of one person, with the faults of the split."""
    mask_hw = person.mask_hw.astype(np.uint8)
    as_rle, without_mask = rng.random(2) < (RLE_SHARE, NO_MASK_SHARE)
    segmentation, area = _segmentation(mask_hw, as_rle=bool(as_rle))
    if split == "train" and without_mask:
        segmentation, area = [], int(mask_hw.sum())
    keypoints_K3 = _labels(rng, person, float(area), faulty=split == "train")
    return {
        "keypoints": keypoints_K3.ravel().tolist(),
        "num_keypoints": int((keypoints_K3[:, 2] > 0).sum()),
        "bbox": _bbox(mask_hw),
        "area": area,
        "segmentation": segmentation,
        "iscrowd": 0,
    }


def _crowd_record(mask_hw: NDArray[np.bool_]) -> Record:
    """A group of people as one region: a mask without keypoints, which the evaluation ignores."""
    mask = mask_hw.astype(np.uint8)
    return {
        "keypoints": [0] * (3 * COCO_17.num_keypoints),
        "num_keypoints": 0,
        "bbox": _bbox(mask),
        "area": int(mask.sum()),
        "segmentation": _run_lengths(mask),
        "iscrowd": 1,
    }


def _labels(rng: np.random.Generator, person: Person, area: float, *, faulty: bool) -> NDArray[np.int64]:
    """Keypoints (K, 3) as integer (x, y, v): v is 2 if visible, 1 if hidden, and 0 (at 0, 0) without a label."""
    height, width = person.mask_hw.shape
    joints_K2 = person.joints
    labelled_K = np.all((joints_K2 >= 0) & (joints_K2 < (width, height)), axis=1)
    if faulty:
        share_K = np.where(person.seen, UNLABELLED_SEEN_SHARE, UNLABELLED_HIDDEN_SHARE)
        labelled_K &= rng.random(len(share_K)) >= share_K
        sd_K = JITTER_SHARE * 2 * COCO_17.sigmas_K * np.sqrt(area)
        joints_K2 = np.rint(joints_K2 + sd_K[:, None] * rng.normal(size=joints_K2.shape)).astype(np.int64)
        joints_K2 = np.clip(joints_K2, 0, (width - 1, height - 1))
    keypoints_K3 = np.concatenate([joints_K2, np.where(person.seen, 2, 1)[:, None]], axis=1)
    return np.where(labelled_K[:, None], keypoints_K3, 0)


def _bbox(mask_hw: NDArray[np.uint8]) -> list[int]:
    """The box [x, y, width, height] of the pixels that are set."""
    return [int(side) for side in cv2.boundingRect(mask_hw)]


def _segmentation(mask_hw: NDArray[np.uint8], *, as_rle: bool) -> tuple[list[list[int]] | Record, int]:
    """The mask as COCO stores it, and its area in px as COCO's tools count it."""
    pixels = int(mask_hw.sum())
    polygons = [] if as_rle else _polygons(mask_hw)
    if polygons:
        height, width = mask_hw.shape
        area = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))))
        if abs(area - pixels) <= MAX_OUTLINE_ERROR * pixels:
            return polygons, area
    return _run_lengths(mask_hw), pixels


def _polygons(mask_hw: NDArray[np.uint8]) -> list[list[int]]:
    """Outlines [x0, y0, x1, y1, ...] of the mask's pieces along the edges of their pixels."""
    # At twice the size each pixel's left edge is an even and its right edge an odd coordinate.
    doubled = cv2.resize(mask_hw, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    edges = [(outline + 1) // 2 for outline in outlines]
    simple = [cv2.approxPolyDP(edge, OUTLINE_TOLERANCE_PX, True).reshape(-1) for edge in edges]
    return [[int(corner) for corner in corners] for corners in simple if len(corners) >= 6]


def _run_lengths(mask_hw: NDArray[np.uint8]) -> Record:
    """COCO's run lengths, uncompressed: column by column, beginning with the zeros."""
    flat = mask_hw.ravel(order="F")
    turns = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], turns, [flat.size]])).tolist()
    return {"counts": [0, *runs] if flat[0] else runs, "size": list(mask_hw.shape)}
