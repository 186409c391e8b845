"""Instances on small images, for tests of views, crops, loading and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from stages.data.images import check_image
from stages.pose.affine import box_to_center_size
from stages.pose.skeleton import COCO_17, Skeleton
from storage_schemas.formats.instances import Instances, Record
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath

__all__ = ["IMAGE_PX", "make_instances", "mask_rle", "write_images"]

IMAGE_PX = 64
"""Width and height of the images."""


def make_instances(
    images: Sequence[int],
    *,
    ids: Sequence[int] | None = None,
    keypoints_NK3: npt.NDArray[np.float32] | None = None,
    masks: Sequence[bytes | None] | None = None,
    facts: dict[int, FileFacts] | None = None,
    boxes: Sequence[tuple[float, float, float, float]] | None = None,
    skeleton: Skeleton = COCO_17,
) -> Instances:
    """One instance for each image id; without ``keypoints_NK3`` all joints are labelled, on a grid."""
    records = []
    for row, image_id in enumerate(images):
        box = np.array(boxes[row] if boxes else (12.0, 8.0, 30.0, 40.0))
        center_2, size_2 = box_to_center_size(box, aspect_wh=0.75)
        joint = np.arange(skeleton.num_keypoints)
        grid = np.stack([14 + 6 * (joint % 4), 10 + 8 * (joint // 4), np.full_like(joint, 2)], axis=-1).astype(np.float32)
        records.append(
            Record(
                annotation_id=ids[row] if ids else 100 + row,
                image_id=image_id,
                file_name=f"{image_id}.png",
                width=IMAGE_PX,
                height=IMAGE_PX,
                box_4=box,
                center_2=center_2,
                size_2=size_2,
                area=900.0,
                keypoints_K3=grid if keypoints_NK3 is None else keypoints_NK3[row],
                mask_rle=masks[row] if masks else None,
            )
        )
    known = facts or {image_id: FileFacts(0, "") for image_id in images}
    return Instances.from_records(records, known, skeleton)


def mask_rle(mask_hw: npt.NDArray[np.bool_]) -> bytes:
    """Encode a mask as COCO's compressed run lengths."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask_hw.astype(np.uint8)))["counts"]
    return counts


def write_images(root: LocalPath, images: Sequence[int]) -> dict[int, FileFacts]:
    """Write an image of noise for each id, and return the facts of their files."""
    facts = {}
    for image_id in images:
        noise = np.random.default_rng(image_id).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
        assert cv2.imwrite(str(root / f"{image_id}.png"), noise)
        facts[image_id] = check_image(root, f"{image_id}.png", (IMAGE_PX, IMAGE_PX))
    return facts
