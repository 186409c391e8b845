"""ImageNet normalisation on the device (HRNet, tools/train.py): uint8 images are a quarter of the bytes to transfer."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["IMAGENET_MEAN_RGB", "IMAGENET_STD_RGB", "normalize"]

IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)


def normalize(image_B3hw: Tensor) -> Tensor:
    """uint8 RGB images [B, 3, h, w] to normalised float32, on the same device and in the same memory format."""
    assert image_B3hw.dtype == torch.uint8, f"images must be uint8, not {image_B3hw.dtype}"
    mean = torch.tensor(IMAGENET_MEAN_RGB, device=image_B3hw.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD_RGB, device=image_B3hw.device).view(3, 1, 1)
    return image_B3hw.float().sub_(mean * 255).div_(std * 255)
