"""One training step: the terms of the loss from labels and cached targets, and the update of the network.

Shape letters: B batch, K joints, H W heatmap pixels, h w input pixels, P packed bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.data.loader import Batch, Rows
from stages.networks.normalize import normalize
from stages.pose.affine import heatmap_size
from stages.pose.heatmap import encode, sigma_of
from stages.settings import Role
from stages.training.harder import harden
from stages.training.loss import LossTerm, blend_targets, halve, heatmap_loss, unpack_bits
from stages.training.memory_map import MappedArray
from stages.training.plan import TrainingPlan
from stages.training.schedule import Weights

__all__ = ["Trainer"]

F32 = npt.NDArray[np.float32]
NO_PEAKS: Mapping[Role, F32] = MappingProxyType({})
_HALF = 0.5
"""The threshold of the bits of labels, whose Gaussians have a peak of 1."""


@dataclass(frozen=True)
class Trainer:
    """A network in training on its device, with its optimizer."""

    plan: TrainingPlan
    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    labelled_N: npt.NDArray[np.bool_]
    """Whether the labels of a row of the instance table may be used."""

    def step(
        self,
        batch: Batch,
        weights: Weights,
        bits: Mapping[Role, MappedArray],
        *,
        generator: np.random.Generator,
        harder: np.random.Generator | None = None,
        peaks: Mapping[Role, F32] = NO_PEAKS,
    ) -> Tensor:
        """Train on one batch and return the loss before the update.

        ``generator`` draws which masks are withheld, and ``harder`` how the pixels change if the plan has harder crops.
        ``peaks`` [N, K] weight the joints of teachers, if the plan says so.
        """
        return self.update(batch, self.loss_terms(batch, weights, bits, peaks), generator=generator, harder=harder)

    def update(
        self,
        batch: Batch,
        terms: Sequence[LossTerm],
        *,
        generator: np.random.Generator,
        harder: np.random.Generator | None = None,
    ) -> Tensor:
        """Update the network to lower the sum of ``terms``, and return the loss before the update."""
        target_BKHW, weight_BK = blend_targets(terms)
        image_B3hw, *mask = self._inputs(batch, generator)
        if harder is not None and self.plan.hard is not None:
            image_B3hw = harden(image_B3hw, target_BKHW, weight_BK, self.plan.hard, harder)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
            output = self.network(image_B3hw, *mask)
        # Each stack of an hourglass is compared with the same target, and the losses are added.
        stacks = output if isinstance(output, tuple) else (output,)
        loss = torch.stack([heatmap_loss(heat_BKHW, target_BKHW, weight_BK) for heat_BKHW in stacks]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def skip(self, batches: Sequence[Rows], *, generator: np.random.Generator) -> None:
        """Advance ``generator`` past ``batches`` that are done, so that the next batch draws what an unbroken run draws."""
        if self.plan.mask_drop:
            for rows_B in batches:
                generator.random(len(rows_B))

    def loss_terms(
        self, batch: Batch, weights: Weights, bits: Mapping[Role, MappedArray], peaks: Mapping[Role, F32] = NO_PEAKS
    ) -> list[LossTerm]:
        """The terms of the batch's loss: ground truth and each teacher, where the weight is above zero."""
        labels = [self._labels(batch, weights.ground_truth)] if weights.ground_truth else []
        return labels + [self._teacher(batch, weights.of(role), bits[role], peaks.get(role)) for role in weights.roles()]

    def _labels(self, batch: Batch, weight: float) -> LossTerm:
        heatmap_wh = heatmap_size(self.plan.input_wh)
        joints_BK3 = self._to_device(batch.keypoints_BK3)
        labelled_B1 = self._to_device(self.labelled_N[batch.rows_B])[:, None]
        heat_BKHW, visible_BK = encode(
            joints_BK3[..., :2],
            ((joints_BK3[..., 2] > 0) & labelled_B1).float(),
            size_wh=heatmap_wh,
            sigma_px=sigma_of(heatmap_wh),
            unbiased=self.plan.train.unbiased,
        )
        return LossTerm(weight, visible_BK, (heat_BKHW >= _HALF).float() if self.plan.binarize_labels else heat_BKHW)

    def _teacher(self, batch: Batch, weight: float, bits: MappedArray, peak_NK: F32 | None) -> LossTerm:
        bits_BP = self._to_device(bits.rows[batch.rows_B])
        heat_BKHW = unpack_bits(bits_BP, num_keypoints=batch.keypoints_BK3.shape[1], heatmap_wh=heatmap_size(self.plan.crop_wh))
        # A map without bits was too weak to binarize: leave the joint out of the loss instead of training it as absent.
        seen_BK = heat_BKHW.amax(dim=(-2, -1)).float()
        if peak_NK is not None:
            seen_BK = seen_BK * self._to_device(peak_NK[batch.rows_B])
        return LossTerm(weight, seen_BK, halve(heat_BKHW) if self.plan.size_divisor == 2 else heat_BKHW)

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
