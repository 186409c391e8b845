"""Paired bootstrap over images: whether the AP of one method differs from another's by more than the choice of images explains.

Shape letters: T OKS thresholds (.50:.05:.95), D detections, I images, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.pose.skeleton import Skeleton
from stages.scoring.coco_ap import Matching, match_results

__all__ = ["PairedBootstrap", "paired_bootstrap"]

F64 = npt.NDArray[np.float64]
Record = Mapping[str, Any]

_RECALLS = np.linspace(0.0, 1.0, 101)
_MAX_CELLS = 4_000_000  # resamples x detections in one block: 32 MB an array


@dataclass(frozen=True)
class PairedBootstrap:
    """AP(B) - AP(A) with its 95 % interval over resamples of the images; ``share_not_better`` is the share with B <= A."""

    ap_a: float
    ap_b: float
    difference: float
    low: float
    high: float
    share_not_better: float
    num_images: int


def paired_bootstrap(
    ground_truth: Record,
    results_a: Sequence[Record],
    results_b: Sequence[Record],
    *,
    skeleton: Skeleton,
    seed: int,
    num_resamples: int = 1000,
    image_ids: Collection[int] | None = None,
) -> PairedBootstrap:
    """Draw the images ``num_resamples`` times with replacement and score both methods on the same draws.

    Predictions and instances are matched once, image by image. A resample only changes how often each image counts. A
    resample without any instance has difference 0.

    Raises:
        DataError: as ``stages.scoring.coco_ap.evaluate``.
    """
    matches_a, matches_b = (
        _matches(match_results(ground_truth, results, skeleton, image_ids)) for results in (results_a, results_b)
    )
    num_images = len(matches_a.instances)
    generator = np.random.default_rng(seed)
    weights_RI = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)
    difference_R = _weighted_ap(matches_b, weights_RI) - _weighted_ap(matches_a, weights_RI)
    once_1I = np.ones((1, num_images), np.int64)
    ap_a, ap_b = float(_weighted_ap(matches_a, once_1I)[0]), float(_weighted_ap(matches_b, once_1I)[0])
    low, high = np.quantile(difference_R, [0.025, 0.975])
    return PairedBootstrap(
        ap_a=ap_a,
        ap_b=ap_b,
        difference=ap_b - ap_a,
        low=float(low),
        high=float(high),
        share_not_better=float((difference_R <= 0).mean()),
        num_images=num_images,
    )


@dataclass(frozen=True)
class _Matches:
    """Everything that AP depends on; detections are sorted by score, the best first."""

    right: npt.NDArray[np.bool_]  # (T, D) matched with an instance
    wrong: npt.NDArray[np.bool_]  # (T, D) matched with none
    image: npt.NDArray[np.int64]  # (D,) index of its image
    instances: npt.NDArray[np.int64]  # (I,) how many count in each image


def _matches(matching: Matching) -> _Matches:
    images = matching.images()
    found = [(index, image) for index, image in enumerate(images) if image is not None]
    scores = np.concatenate([image["dtScores"] for _, image in found])
    # Equal scores keep the order of the image ids, as in pycocotools.
    order = np.argsort(-scores, kind="stable")
    matched_TD = np.concatenate([image["dtMatches"] for _, image in found], axis=1)[:, order] > 0
    ignored_TD = np.concatenate([image["dtIgnore"] for _, image in found], axis=1)[:, order].astype(bool)
    return _Matches(
        right=matched_TD & ~ignored_TD,
        wrong=~matched_TD & ~ignored_TD,
        image=np.repeat([index for index, _ in found], [len(image["dtScores"]) for _, image in found])[order],
        instances=np.array([0 if image is None else image["gtIgnore"].count(0) for image in images]),
    )


def _weighted_ap(matches: _Matches, weights_RI: npt.NDArray[np.int64]) -> F64:
    """AP [R] when image i counts ``weights_RI[r, i]`` times; with all weights 1 it equals pycocotools' AP."""
    num_rows = max(1, _MAX_CELLS // max(1, len(matches.image)))
    parts = [_ap_rows(matches, weights_RI[start : start + num_rows]) for start in range(0, len(weights_RI), num_rows)]
    return np.concatenate(parts)


def _ap_rows(matches: _Matches, weights_RI: npt.NDArray[np.int64]) -> F64:
    instances_R1 = (weights_RI @ matches.instances)[:, None].astype(np.float64)
    weights_RD = weights_RI[:, matches.image].astype(np.float64)
    precision_TR = np.zeros((len(matches.right), len(weights_RI)))
    for index, (right_D, wrong_D) in enumerate(zip(matches.right, matches.wrong, strict=True)):
        right_RD = np.cumsum(weights_RD * right_D, axis=1)
        wrong_RD = np.cumsum(weights_RD * wrong_D, axis=1)
        precision_RD = right_RD / (wrong_RD + right_RD + np.spacing(1))
        # COCO's interpolated precision: the highest at this recall or above; 0 after the last detection.
        best_RD = np.maximum.accumulate(precision_RD[:, ::-1], axis=1)[:, ::-1]
        best_RD = np.pad(best_RD, ((0, 0), (0, 1)))
        recall_RD = right_RD / np.maximum(instances_R1, 1)
        precision_TR[index] = [
            best_D[np.searchsorted(recall_D, _RECALLS, side="left")].mean()
            for best_D, recall_D in zip(best_RD, recall_RD, strict=True)
        ]
    return np.where(instances_R1[:, 0] > 0, precision_TR.mean(axis=0), 0.0)
