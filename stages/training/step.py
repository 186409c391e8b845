"""One step of a training: what a batch is taught, by labels and by cached teachers, and the update of the network.

Shape letters: B batch, K joints, H W heatmap pixels, h w input pixels, P packed bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.data.loader import Batch, Rows
from stages.networks.normalize import normalize
from stages.pose.heatmap import encode, sigma_of
from stages.pose.skeleton import COCO_KEYPOINTS
from stages.settings import Role
from stages.training.loss import blend_targets, halve, heatmap_loss, unpack_bits
from stages.training.memory_map import MappedArray
from stages.training.plan import TrainingPlan, Weights

__all__ = ["Learner", "Source"]

Source = tuple[float, Tensor, Tensor]
"""Somebody who teaches: the weight, ``seen_BK`` (whom of the joints), ``heat_BKHW`` (and what about it)."""

_ROLES: tuple[Role, Role] = ("primary", "senior")


@dataclass(frozen=True)
class Learner:
    """A network in training on its device, with its optimizer."""

    plan: TrainingPlan
    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device

    def step(
        self, batch: Batch, weights: Weights, teachers: Mapping[Role, MappedArray], *, generator: np.random.Generator
    ) -> Tensor:
        """Learn one batch from labels and from the teachers' bits; the loss. ``generator`` says whose mask is withheld."""
        return self.learn(batch, self.sources(batch, weights, teachers), generator=generator)

    def learn(self, batch: Batch, sources: Sequence[Source], *, generator: np.random.Generator) -> Tensor:
        """Update the network towards what the sources teach; the loss before that."""
        target_BKHW, weight_BK = blend_targets(sources)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
            heat_BKHW = self.network(*self._inputs(batch, generator))
        loss = heatmap_loss(heat_BKHW, target_BKHW, weight_BK)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def skip(self, batches: Sequence[Rows], *, generator: np.random.Generator) -> None:
        """Draw what was drawn for ``batches`` when they were learned, so that the next one finds what it would have found."""
        if self.plan.mask_drop:
            for rows_B in batches:
                generator.random(len(rows_B))

    def sources(self, batch: Batch, weights: Weights, teachers: Mapping[Role, MappedArray]) -> list[Source]:
        """Those who teach the batch: everybody whose weight is above zero."""
        cached = {"primary": weights.primary, "senior": weights.senior}
        labels = [self._labels(batch, weights.ground_truth)] if weights.ground_truth else []
        return labels + [self._bits(batch, cached[role], teachers[role]) for role in _ROLES if cached[role]]

    def _labels(self, batch: Batch, weight: float) -> Source:
        width, height = self.plan.input_wh
        joints_BK3 = self._to_device(batch.keypoints_BK3)
        heat_BKHW, visible_BK = encode(
            joints_BK3[..., :2],
            (joints_BK3[..., 2] > 0).float(),
            size_wh=(width // 4, height // 4),
            sigma_px=sigma_of((width // 4, height // 4)),
            unbiased=self.plan.train.unbiased,
        )
        return weight, visible_BK, heat_BKHW

    def _bits(self, batch: Batch, weight: float, teacher: MappedArray) -> Source:
        width, height = self.plan.crop_wh
        bits_BP = self._to_device(teacher.rows[batch.rows_B])
        heat_BKHW = unpack_bits(bits_BP, num_joints=len(COCO_KEYPOINTS), heatmap_wh=(width // 4, height // 4))
        # A map that was too weak has no bits: its joint is not taught, rather than taught as absent.
        seen_BK = heat_BKHW.amax(dim=(-2, -1)).float()
        return weight, seen_BK, halve(heat_BKHW) if self.plan.size_divisor == 2 else heat_BKHW

    def _inputs(self, batch: Batch, generator: np.random.Generator) -> tuple[Tensor, ...]:
        # [B, h, w, 3] in memory is channels_last: the permuted view needs no copy.
        image_B3hw = normalize(self._to_device(batch.image_Bhw3).permute(0, 3, 1, 2))
        if not self.plan.feed_mask:
            return (image_B3hw,)
        keep_B = torch.from_numpy(batch.has_mask_B).float()
        if self.plan.mask_drop:
            keep_B = keep_B * torch.from_numpy(generator.random(len(keep_B)) >= self.plan.mask_drop)
        return image_B3hw, self._to_device(batch.mask_Bhw)[:, None].float(), keep_B.to(self.device)

    def _to_device(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor
