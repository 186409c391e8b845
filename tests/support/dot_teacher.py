"""People of coloured dots, and a network that finds each joint by its colour: a teacher with a known fault in each variant."""

from __future__ import annotations

import itertools
import json

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stages.networks.normalize import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from stages.pose.skeleton import COCO_17
from storage_schemas.paths.local import LocalPath

__all__ = ["DotTeacher", "export_teacher", "write_people"]

_SIDE_PX, _RADIUS_PX = 160, 6
# Red is always higher than blue, so that no colour becomes another one if both are exchanged.
COLOURS_RGB = np.array([*itertools.product((255, 190), (0, 85, 170, 255), (0, 64)), (225, 40, 120)], np.float32)


class DotTeacher(nn.Module):
    """Heatmaps of crops: where the colour of a joint is, with a peak of about ``peak``."""

    def __init__(self, *, peak: float = 1.0, bgr: bool = False, swapped: bool = False) -> None:
        super().__init__()
        colours = COLOURS_RGB[list(COCO_17.flip)] if swapped else COLOURS_RGB
        colour_K3 = torch.from_numpy(colours[:, ::-1].copy() if bgr else colours) / 255
        self.colour_K3 = nn.Parameter(colour_K3)
        self.mean = nn.Buffer(torch.tensor(IMAGENET_MEAN_RGB).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(IMAGENET_STD_RGB).view(1, 3, 1, 1))
        self.peak = peak

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """[B, 3, h, w] to [B, 17, h/4, w/4]."""
        rgb = image_B3hw * self.std + self.mean
        distance = (rgb[:, None] - self.colour_K3[None, :, :, None, None]).square().sum(dim=2)
        heat = torch.exp(distance / -0.004)
        # The mean over a window that is larger than a dot has its maximum at the dot's centre.
        return self.peak * 2.5 * nn.functional.avg_pool2d(heat, 9, stride=4, padding=4)


def export_teacher(path: LocalPath, network: nn.Module, *, size_wh: tuple[int, int]) -> LocalPath:
    """Write the network as a program of torch.export."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    image = torch.zeros(2, 3, size_wh[1], size_wh[0])
    torch.export.save(torch.export.export(network.eval(), (image,), dynamic_shapes=shapes), path)
    return path


def write_people(folder: LocalPath, *, images: int, first: int, seed: int) -> tuple[LocalPath, LocalPath]:
    """Write images of one person each; return the annotation file and the folder of the images."""
    generator = np.random.default_rng(seed)
    root = folder / "images"
    root.mkdir(parents=True)
    grid = np.array([(40 + 20 * (joint % 5), 25 + 28 * (joint // 5)) for joint in range(17)], np.float64)
    records, listed = [], []
    for number in range(first, first + images):
        joint_K2 = grid + generator.uniform(-4, 4, grid.shape)
        picture = np.full((_SIDE_PX, _SIDE_PX, 3), 128, np.uint8)
        for (x, y), colour in zip(joint_K2, COLOURS_RGB, strict=True):
            cv2.circle(picture, (round(x * 16), round(y * 16)), _RADIUS_PX * 16, colour[::-1].tolist(), -1, cv2.LINE_8, 4)
        assert cv2.imwrite(str(root / f"{number}.png"), picture)
        listed.append({"id": number, "file_name": f"{number}.png", "width": _SIDE_PX, "height": _SIDE_PX})
        keypoints = np.concatenate([joint_K2, np.full((17, 1), 2)], axis=1).round(2).ravel().tolist()
        records.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [25, 10, 110, 130],
                "area": 14300.0,
                "num_keypoints": 17,
                "keypoints": keypoints,
                "segmentation": [[25, 10, 135, 12, 134, 140, 26, 139]],
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints), "skeleton": []}
    document = {"images": listed, "annotations": records, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json", root
