"""COCO keypoint AP, computed by hotcoco with the numbers of pycocotools, and the score of each joint.

Shape letters: N instances, K joints.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hotcoco import COCO, COCOeval

from stages.pose.skeleton import Skeleton
from stages.scoring.oks import keypoint_similarity
from storage_schemas.errors import DataError

__all__ = ["JointScore", "Matching", "Scores", "evaluate", "match_results"]

F64 = npt.NDArray[np.float64]
Record = Mapping[str, Any]

_FOUND = 0.5
"""The OKS of AP50, from which an instance counts as found in the table of joints."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JointScore:
    """The score of one joint, see ``Scores.joints``; ``similarity`` and ``share`` are 0 if ``labelled`` is 0."""

    name: str
    labelled: int
    similarity: float
    share: float


@dataclass(frozen=True)
class Scores:
    """The ten numbers of the COCO keypoint evaluation (-1 if no instance has that size), and the score of each joint.

    ``joints``: instances are matched with results as for AP50. Only the labelled joints of instances that count (no crowd,
    at least one label) are used. ``similarity`` is the mean of ``stages.scoring.oks.keypoint_similarity``, and ``share`` is
    the share with a similarity of at least 0.5. Joints of an instance without a match have similarity 0.
    """

    AP: float
    AP50: float
    AP75: float
    APM: float
    APL: float
    AR: float
    AR50: float
    AR75: float
    ARM: float
    ARL: float
    joints: tuple[JointScore, ...]
    num_images: int
    num_instances: int


def evaluate(
    ground_truth: Record, results: Sequence[Record], *, skeleton: Skeleton, image_ids: Collection[int] | None = None
) -> Scores:
    """Score ``results`` (COCO results records) against ``ground_truth`` (a COCO keypoints file as a dict).

    With ``image_ids`` only those images are scored, and results on other images are ignored. An unmatched result counts for
    APM or APL by its size, which is always the extent of its keypoints: a ``bbox`` is ignored, because it would change the
    numbers. Without any results the AP is 0, and a warning is logged. Neither argument is changed.

    Raises DataError: no person with a labelled joint, records that are malformed, NaN or infinity, unknown image ids.
    """
    matching = match_results(ground_truth, results, skeleton, image_ids)
    with _quiet():
        evaluation = matching.evaluation()
        evaluation.accumulate()
        evaluation.summarize()
    similarity_NK, labelled_NK = _joint_similarity(matching, skeleton)
    ap, ap50, ap75, apm, apl, ar, ar50, ar75, arm, arl = (float(value) for value in np.asarray(evaluation.stats))
    return Scores(
        AP=ap,
        AP50=ap50,
        AP75=ap75,
        APM=apm,
        APL=apl,
        AR=ar,
        AR50=ar50,
        AR75=ar75,
        ARM=arm,
        ARL=arl,
        joints=_joint_table(similarity_NK, labelled_NK, skeleton),
        num_images=len(matching.image_ids),
        num_instances=len(labelled_NK),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what the evaluation prints, and its warning about sigmas that are not COCO's: the protocol names them."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@dataclass(frozen=True, eq=False)
class Matching:
    """Instances and results that were matched image by image; M results, N instances, in the order of their ids from 1."""

    truth: COCO
    found: COCO
    skeleton: Skeleton
    image_ids: list[int]
    truth_NK3: F64
    area_N: F64
    found_MK3: F64

    def evaluation(self, *, only_whole: bool = False, thresholds: Sequence[float] = ()) -> COCOeval:
        """The evaluation after matching: of all sizes of instances or of no size alone, at COCO's OKS or at ``thresholds``."""
        evaluation = COCOeval(self.truth, self.found, "keypoints")
        evaluation.params.kpt_oks_sigmas = self.skeleton.sigmas_K.tolist()
        if only_whole:
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        if thresholds:
            evaluation.params.iouThrs = list(thresholds)
        evaluation.evaluate()
        return evaluation

    def images(self, thresholds: Sequence[float] = ()) -> list[dict[str, Any] | None]:
        """The matches of each image over all instance sizes; None for an image without instances and results."""
        with _quiet():
            matched = self.evaluation(only_whole=True, thresholds=thresholds).eval_imgs
        by_id = {image["image_id"]: image for image in matched if image}
        return [by_id.get(image_id) for image_id in self.image_ids]


def match_results(
    ground_truth: Record, results: Sequence[Record], skeleton: Skeleton, image_ids: Collection[int] | None
) -> Matching:
    """Match the results with the instances, image by image; raises as ``evaluate``."""
    all_ids = {image["id"] for image in ground_truth.get("images", ())}
    kept_ids = all_ids if image_ids is None else set(image_ids)
    _refuse_unknown(kept_ids - all_ids, "image_ids name images")
    instances, category = _instances(ground_truth, kept_ids, skeleton.num_keypoints)
    _refuse_unknown({result.get("image_id") for result in results} - all_ids, "results are on images")
    detections = _detections(results, kept_ids, category, skeleton.num_keypoints)
    if not detections:
        _log.warning("no results on the %d images of the ground truth: AP is 0", len(kept_ids))
    keypoints_NK3, keypoints_MK3 = (
        np.array([item["keypoints"] for item in items], np.float64).reshape(-1, skeleton.num_keypoints, 3)
        for items in (instances, detections)
    )
    area_N = np.array([instance["area"] for instance in instances])
    truth, found = _coco(instances, kept_ids, category), _coco(detections, kept_ids, category)
    return Matching(truth, found, skeleton, sorted(kept_ids), keypoints_NK3, area_N, keypoints_MK3)


def _coco(annotations: list[dict[str, Any]], image_ids: Collection[int], category: int) -> COCO:
    """An index of ``annotations``; ids start at 1, because a match with id 0 is read as no match."""
    return COCO(
        {
            "images": [{"id": image_id, "width": 1, "height": 1} for image_id in sorted(image_ids)],
            "categories": [{"id": category, "name": "person"}],
            "annotations": [{**annotation, "id": index} for index, annotation in enumerate(annotations, start=1)],
        }
    )


def _refuse_unknown(unknown: Collection[Any], what: str) -> None:
    if unknown:
        shown = ", ".join(sorted(map(repr, unknown))[:5])
        raise DataError(
            f"{what} that the ground truth does not have: {shown} ({len(unknown)} in all)",
            allowed="the ids in its 'images' list",
        )


def _instances(ground_truth: Record, kept_ids: Collection[int], num_keypoints: int) -> tuple[list[dict[str, Any]], int]:
    """The annotations on ``kept_ids`` as the evaluation needs them, and the id of the category with keypoints."""
    annotations = ground_truth.get("annotations", ())
    categories = {annotation["category_id"] for annotation in annotations if "keypoints" in annotation}
    if len(categories) > 1:
        raise DataError(f"keypoints in {len(categories)} categories: {sorted(categories)}", allowed="one category")
    chosen = [
        annotation
        for annotation in annotations
        if annotation["category_id"] in categories and annotation["image_id"] in kept_ids
    ]
    instances = _checked_instances(chosen, 3 * num_keypoints)
    if not any(instance["num_keypoints"] and not instance["iscrowd"] for instance in instances):
        raise DataError(
            f"no instance with a labelled joint on the {len(kept_ids)} images to evaluate",
            allowed="a COCO keypoints file with at least one annotation with num_keypoints > 0 and iscrowd 0",
        )
    return instances, categories.pop()


def _checked_instances(annotations: Sequence[Record], num_values: int) -> list[dict[str, Any]]:
    """Annotations as the evaluation needs them. One without keypoints, such as a crowd, becomes a region to ignore."""

    def where(index: int) -> str:
        return f"annotation {annotations[index].get('id')} on image {annotations[index]['image_id']}"

    none = [0] * num_values
    keypoints = _rows(
        [item.get("keypoints", none) for item in annotations], num_values, lambda row: f"keypoints of {where(row)}"
    )
    boxes = _rows([item.get("bbox", ()) for item in annotations], 4, lambda row: f"bbox of {where(row)}")
    areas = _rows([[item.get("area", np.nan)] for item in annotations], 1, lambda row: f"area of {where(row)}")
    labelled = np.count_nonzero(keypoints[:, 2::3] > 0, axis=1).tolist()
    columns = zip(annotations, keypoints.tolist(), boxes.tolist(), areas[:, 0].tolist(), labelled, strict=True)
    return [
        {
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "keypoints": values,
            "num_keypoints": int(item.get("num_keypoints", count)),
            "bbox": box,
            "area": area,
            "iscrowd": int(item.get("iscrowd", 0)),
        }
        for item, values, box, area, count in columns
    ]


def _detections(
    results: Sequence[Record], kept_ids: Collection[int], category: int, num_keypoints: int
) -> list[dict[str, Any]]:
    """The results on ``kept_ids`` as the evaluation needs them, with the area that pycocotools computes without a box."""
    chosen = [(index, result) for index, result in enumerate(results) if result.get("image_id") in kept_ids]

    def where(row: int) -> str:
        return f"result {chosen[row][0]} on image {chosen[row][1]['image_id']}"

    for row, (_, result) in enumerate(chosen):
        if result.get("category_id") != category:
            seen = f"category_id {result.get('category_id')!r} of {where(row)}"
            raise DataError(seen, allowed=f"{category}, as in the ground truth")
    given = [result.get("keypoints", ()) for _, result in chosen]
    keypoints = _rows(given, 3 * num_keypoints, lambda row: f"keypoints of {where(row)}")
    scores = _rows([[result.get("score", np.nan)] for _, result in chosen], 1, lambda row: f"score of {where(row)}")
    areas = np.ptp(keypoints[:, 0::3], axis=1) * np.ptp(keypoints[:, 1::3], axis=1)
    columns = zip(chosen, keypoints.tolist(), scores[:, 0].tolist(), areas.tolist(), strict=True)
    return [
        {"image_id": result["image_id"], "category_id": category, "keypoints": values, "score": score, "area": area}
        for (_, result), values, score, area in columns
    ]


def _rows(values: Sequence[npt.ArrayLike], count: int, what: Callable[[int], str]) -> F64:
    """``values`` as float64 [rows, ``count``]; raises ``DataError`` for the first row that is not so many finite numbers."""
    numbers = _array(values)
    if not values or (numbers.shape == (len(values), count) and np.isfinite(numbers).all()):
        return numbers.reshape(-1, count)
    for row, value in enumerate(values):
        one = _array(value)
        if one.shape != (count,) or not np.isfinite(one).all():
            raise DataError(f"{what(row)}: {str(value)[:80]}", allowed=f"{count} finite numbers")
    raise AssertionError("each row is right, and all together are not")


def _array(values: npt.ArrayLike | Sequence[npt.ArrayLike]) -> F64:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def _joint_similarity(matching: Matching, skeleton: Skeleton) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Keypoint similarity [N, K] of the instances that count with their match at OKS .5, and which joints are labelled."""
    pairs = np.array(
        [
            (instance_id - 1, int(result_id) - 1)
            for image in filter(None, matching.images([_FOUND]))
            for instance_id, result_id, ignored in zip(image["gtIds"], image["gtMatches"][0], image["gtIgnore"], strict=True)
            if not ignored
        ],
        np.int64,
    ).reshape(-1, 2)
    truth_NK3, area_N = matching.truth_NK3[pairs[:, 0]], matching.area_N[pairs[:, 0]]
    similarity_NK = np.zeros(truth_NK3.shape[:2])
    is_found_N = pairs[:, 1] >= 0
    offset_NK2 = (matching.found_MK3[pairs[is_found_N, 1]] - truth_NK3[is_found_N])[..., :2]
    squared_NK = np.square(offset_NK2).sum(axis=-1)
    similarity_NK[is_found_N] = keypoint_similarity(squared_NK, area_N[is_found_N], skeleton=skeleton)
    return similarity_NK, truth_NK3[..., 2] > 0


def _joint_table(similarity_NK: F64, labelled_NK: npt.NDArray[np.bool_], skeleton: Skeleton) -> tuple[JointScore, ...]:
    count_K = labelled_NK.sum(axis=0)
    mean_K = (similarity_NK * labelled_NK).sum(axis=0) / np.maximum(count_K, 1)
    share_K = ((similarity_NK >= 0.5) & labelled_NK).sum(axis=0) / np.maximum(count_K, 1)
    columns = zip(skeleton.keypoints, count_K, mean_K, share_K, strict=True)
    return tuple(JointScore(name, int(count), float(mean), float(share)) for name, count, mean, share in columns)
