"""Inference: one network with its weights, from crops to heatmaps, or from an image and boxes to keypoints.

Shape letters: B batch, N instances, K keypoints, H W heatmap pixels, h w input pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.data.crops import crop_image
from stages.data.loader import Batch
from stages.networks.device import on_device
from stages.networks.load import load_network
from stages.networks.mask_adapter import SeniorNetwork
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec
from stages.pose.affine import box_to_center_size, crop_affine
from stages.pose.decode import Decoder, dark_kernel_of, decode, to_image
from stages.pose.flip import FlipTest, flip_merge, mirrored
from stages.pose.skeleton import COCO_17, Skeleton

__all__ = ["DECODERS", "Predictor", "decode_to_image", "load_predictor"]

DECODERS: tuple[Decoder, ...] = get_args(Decoder)

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


class Predictor:
    """A network on a device, for inputs of one size.

    Args:
        source: a network and the files with its weights, or a network in memory.
        size_wh: input size (w, h) in pixels: ``crop.size_wh``, for a student divided by ``distill.size_divisor``.
        skeleton: the joint set of the heatmaps.
        device: where the network runs.
        precision: bfloat16 runs the network under torch.autocast; heatmaps are float32 in both cases.
        threads: threads of onnxruntime, 0 for its own choice; torch's are a setting of the process.

    Raises:
        WeightsError: the weights do not fit, are not safe to open, or give other heatmaps.
    """

    def __init__(
        self,
        source: NetworkSpec | nn.Module,
        *,
        size_wh: tuple[int, int],
        skeleton: Skeleton = COCO_17,
        device: Device = "cpu",
        precision: Precision = "float32",
        threads: int = 0,
    ) -> None:
        if isinstance(source, NetworkSpec):
            num = skeleton.num_keypoints
            source = load_network(source, size_wh=size_wh, num_keypoints=num, onnx_threads=threads, device=device)
        self.size_wh, self.skeleton, self.precision = size_wh, skeleton, precision
        self.device = torch.device(device)
        self.network = on_device(source.eval(), self.device)
        self.feed_mask = isinstance(source, SeniorNetwork)
        """Whether the network takes masks too."""

    def predict(
        self, image_hw3: U8, box_N4: npt.ArrayLike, *, flip: FlipTest = "exact", decoder: Decoder = "dark", batch_size: int = 32
    ) -> F32:
        """Find the keypoints of the instances in one image; a senior gets no masks.

        Args:
            image_hw3: RGB, uint8.
            box_N4: a box (x, y, width, height) for each instance, in image pixels.
            flip: also run the mirrored crops, and average the heatmaps; how they are mirrored, or False.
            decoder: how a heatmap becomes a position.
            batch_size: instances in one forward pass.

        Returns:
            Keypoints [N, K, 3]: x and y in image pixels, and the score, which is the height of the heatmap's peak.
        """
        boxes_N4 = np.asarray(box_N4, np.float64).reshape(-1, 4)
        center_N2, size_N2 = box_to_center_size(boxes_N4, aspect_wh=self.size_wh[0] / self.size_wh[1])
        affine_N23 = crop_affine(center_N2, size_N2, rotation_deg=np.zeros(len(boxes_N4)), size_wh=self.size_wh)
        # Views keep float32, so evaluation computes the same crops.
        affine_N23 = affine_N23.astype(np.float32)
        found = [np.zeros((0, self.skeleton.num_keypoints, 3), np.float32)]
        for start in range(0, len(boxes_N4), batch_size):
            affine_B23 = affine_N23[start : start + batch_size]
            image_Bhw3 = np.stack([crop_image(image_hw3, affine_23, size_wh=self.size_wh) for affine_23 in affine_B23])
            mask_Bhw, has_mask_B = np.zeros(image_Bhw3.shape[:3], np.uint8), np.zeros(len(affine_B23), np.bool_)
            heat_BKHW = self._heatmaps(image_Bhw3, mask_Bhw, has_mask_B, flip=flip)
            found.append(decode_to_image(heat_BKHW, affine_B23, decoder=decoder))
        return np.concatenate(found)

    def heatmaps(self, batch: Batch, *, flip: FlipTest = False) -> Tensor:
        """float32 heatmaps [B, K, H, W] of crops; with ``flip``, averaged with those of the mirrored crops."""
        return self._heatmaps(batch.image_Bhw3, batch.mask_Bhw, batch.has_mask_B, flip=flip)

    def _heatmaps(self, image_Bhw3: U8, mask_Bhw: U8, has_mask_B: npt.NDArray[np.bool_], *, flip: FlipTest) -> Tensor:
        image_B3hw = self._tensor(image_Bhw3).permute(0, 3, 1, 2)
        mask_B1hw = self._tensor(mask_Bhw)[:, None].float() if self.feed_mask else None
        known_B = self._tensor(has_mask_B).float()
        heat_BKHW = self._forward(image_B3hw, mask_B1hw, known_B)
        if not flip:
            return heat_BKHW
        mirrored_B1hw = None if mask_B1hw is None else mirrored(mask_B1hw, flip=flip)
        back_BKHW = self._forward(mirrored(image_B3hw, flip=flip), mirrored_B1hw, known_B)
        return flip_merge(heat_BKHW, back_BKHW, skeleton=self.skeleton)

    def _forward(self, image_B3hw: Tensor, mask_B1hw: Tensor | None, known_B: Tensor) -> Tensor:
        inputs = (normalize(image_B3hw),) if mask_B1hw is None else (normalize(image_B3hw), mask_B1hw, known_B)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            # Most networks return channels_last, in which operations on single maps are slow.
            return cast(Tensor, self.network(*inputs)).float().contiguous()

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


@lru_cache(maxsize=4)
def load_predictor(
    spec: NetworkSpec, skeleton: Skeleton, size_wh: tuple[int, int], device: Device, precision: Precision, threads: int
) -> Predictor:
    """The ``Predictor`` of ``spec``; a process loads each network once, since it runs many tasks with few networks."""
    torch.set_num_threads(threads)
    return Predictor(spec, size_wh=size_wh, skeleton=skeleton, device=device, precision=precision, threads=threads)


def decode_to_image(heat_BKHW: Tensor, affine_B23: npt.NDArray[np.floating], *, decoder: Decoder) -> F32:
    """Keypoints [B, K, 3] (x, y in image pixels, score) of heatmaps; ``affine_B23`` takes image pixels to crop pixels."""
    kernel = dark_kernel_of((heat_BKHW.shape[3], heat_BKHW.shape[2]))
    xy_BK2, score_BK = decode(heat_BKHW, decoder=decoder, dark_kernel=kernel)
    keypoints_BK3 = np.concatenate([to_image(xy_BK2, affine_B23), score_BK.cpu().numpy()[..., None]], axis=-1)
    return keypoints_BK3.astype(np.float32)
