"""AP during a training, on held-out people: for its curve, and to keep the best weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from stages.data.holdout import held_out
from stages.data.labels import labelled
from stages.data.loader import CropLoader
from stages.data.views import draw_views
from stages.inference import Predictor, decode_to_image
from stages.scoring.coco_ap import evaluate
from stages.scoring.coco_results import coco_results
from stages.training.plan import TrainingPlan
from storage_schemas.errors import TrainingError
from storage_schemas.formats.instances import Instances

__all__ = ["Validator"]

_BATCH = 32


class Validator:
    """Scores a network in training on the held-out people with labels: plain crops, no flip test, DARK."""

    def __init__(self, instances: Instances, plan: TrainingPlan, *, threads: int) -> None:
        self._plan, self._threads = plan, threads
        self._instances = instances.select(held_out(instances, plan.holdout_fraction) & labelled(instances))
        if not len(self._instances.id_N):
            raise TrainingError(
                f"'{plan.title}' has no held-out person with a label to validate on",
                allowed="a larger prepare.holdout_fraction, or distill.validate_every 0",
            )
        self._truth = _ground_truth(self._instances)

    def ap(self, network: nn.Module) -> float:
        """The AP of ``network`` as it is now, from 0 to 1; its mode and its statistics stay as they are."""
        plan, instances = self._plan, self._instances
        was_training = network.training
        predictor = Predictor(
            network, size_wh=plan.input_wh, skeleton=instances.skeleton, device=plan.device, precision=plan.precision
        )
        views = draw_views(instances, 0, seed=0, augment=plan.augment, size_wh=plan.crop_wh)
        num = len(instances.id_N)
        rows = (np.arange(start, min(start + _BATCH, num)) for start in range(0, num, _BATCH))
        loader = CropLoader(instances, plan.images, size_wh=plan.input_wh, threads=self._threads)
        found = []
        try:
            for (batch,) in loader.batches(rows, [views], crop_divisor=plan.size_divisor):
                affine_B23 = views.affine_N23[batch.rows_B].astype(np.float64) / plan.size_divisor
                found.append(decode_to_image(predictor.heatmaps(batch), affine_B23, decoder="dark"))
        finally:
            loader.close()
            network.train(was_training)
        keypoints_NK3 = np.concatenate(found)
        image_id_N = instances.image_id_M[instances.image_N]
        # Without thresholds: the score of a person is the mean over all joints.
        results = coco_results(image_id_N, keypoints_NK3[..., 2].mean(axis=1, dtype=np.float64), keypoints_NK3)
        return evaluate(self._truth, results, skeleton=instances.skeleton).AP


def _ground_truth(instances: Instances) -> dict[str, Any]:
    """The evaluation's input as a COCO document."""
    image_ids = instances.image_id_M.tolist()
    columns = zip(
        instances.id_N.tolist(),
        instances.image_N.tolist(),
        instances.keypoints_NK3.astype(np.float64),
        instances.box_N4.tolist(),
        instances.area_N.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": number,
            "image_id": image_ids[image],
            "category_id": 1,
            "iscrowd": 0,
            "keypoints": keypoints_K3.ravel().tolist(),
            "num_keypoints": int((keypoints_K3[:, 2] > 0).sum()),
            "bbox": box,
            "area": area,
        }
        for number, image, keypoints_K3, box, area in columns
    ]
    return {"images": [{"id": image_id} for image_id in image_ids], "annotations": annotations}
