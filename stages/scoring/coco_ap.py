"""COCO keypoint AP, computed by pycocotools, and the score of each joint.

Shape letters: N instances, K joints.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.pose.skeleton import Skeleton
from stages.scoring.oks import keypoint_similarity
from storage_schemas.errors import DataError

__all__ = ["JointScore", "Scores", "evaluate", "match_results", "matched_images"]

F64 = npt.NDArray[np.float64]
Record = Mapping[str, Any]

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
    evaluation = match_results(ground_truth, results, skeleton, image_ids)
    with _quiet():
        evaluation.accumulate()
        evaluation.summarize()
    similarity_NK, labelled_NK = _joint_similarity(evaluation, skeleton)
    ap, ap50, ap75, apm, apl, ar, ar50, ar75, arm, arl = (float(value) for value in evaluation.stats)
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
        num_images=len(evaluation.params.imgIds),
        num_instances=len(labelled_NK),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def match_results(
    ground_truth: Record, results: Sequence[Record], skeleton: Skeleton, image_ids: Collection[int] | None
) -> COCOeval:
    """A COCOeval that has matched the results with the instances, image by image; raises as ``evaluate``."""
    all_ids = {image["id"] for image in ground_truth.get("images", ())}
    kept_ids = all_ids if image_ids is None else set(image_ids)
    _refuse_unknown(kept_ids - all_ids, "image_ids name images")
    instances, category = _instances(ground_truth, kept_ids, skeleton.num_keypoints)
    _refuse_unknown({result.get("image_id") for result in results} - all_ids, "results are on images")
    detections = [
        _detection(result, index, category, skeleton.num_keypoints)
        for index, result in enumerate(results)
        if result.get("image_id") in kept_ids
    ]
    if not detections:
        _log.warning("no results on the %d images of the ground truth: AP is 0", len(kept_ids))
    evaluation = COCOeval(_coco(instances, kept_ids, category), _coco(detections, kept_ids, category), "keypoints")
    evaluation.params.kpt_oks_sigmas = skeleton.sigmas_K
    with _quiet():
        evaluation.evaluate()
    return evaluation


def _coco(annotations: list[dict[str, Any]], image_ids: Collection[int], category: int) -> COCO:
    """A pycocotools index of ``annotations``; ids start at 1, because pycocotools reads a match with id 0 as no match."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": category, "name": "person"}],
        "annotations": [annotation | {"id": index} for index, annotation in enumerate(annotations, start=1)],
    }
    with _quiet():
        coco.createIndex()
    return coco


def _refuse_unknown(unknown: Collection[Any], what: str) -> None:
    if unknown:
        shown = ", ".join(sorted(map(repr, unknown))[:5])
        raise DataError(
            f"{what} that the ground truth does not have: {shown} ({len(unknown)} in all)",
            allowed="the ids in its 'images' list",
        )


def _instances(ground_truth: Record, kept_ids: Collection[int], num_keypoints: int) -> tuple[list[dict[str, Any]], int]:
    """The annotations on ``kept_ids`` as COCOeval needs them, and the id of the category with keypoints."""
    annotations = ground_truth.get("annotations", ())
    categories = {annotation["category_id"] for annotation in annotations if "keypoints" in annotation}
    if len(categories) > 1:
        raise DataError(f"keypoints in {len(categories)} categories: {sorted(categories)}", allowed="one category")
    instances = [
        _instance(annotation, 3 * num_keypoints)
        for annotation in annotations
        if annotation["category_id"] in categories and annotation["image_id"] in kept_ids
    ]
    if not any(instance["num_keypoints"] and not instance["iscrowd"] for instance in instances):
        raise DataError(
            f"no instance with a labelled joint on the {len(kept_ids)} images to evaluate",
            allowed="a COCO keypoints file with at least one annotation with num_keypoints > 0 and iscrowd 0",
        )
    return instances, categories.pop()


def _instance(annotation: Record, num_values: int) -> dict[str, Any]:
    """An annotation as COCOeval needs it. One without keypoints, such as a crowd, becomes a region to ignore."""
    where = f"annotation {annotation.get('id')} on image {annotation['image_id']}"
    keypoints = _numbers(annotation.get("keypoints", [0] * num_values), num_values, f"keypoints of {where}")
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "keypoints": keypoints,
        "num_keypoints": int(annotation.get("num_keypoints", np.count_nonzero(keypoints[2::3] > 0))),
        "bbox": _numbers(annotation.get("bbox", ()), 4, f"bbox of {where}"),
        "area": _numbers([annotation.get("area", np.nan)], 1, f"area of {where}")[0],
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _detection(result: Record, index: int, category: int, num_keypoints: int) -> dict[str, Any]:
    """A result as COCOeval needs it, with the area that pycocotools computes for a result without a box."""
    where = f"result {index} on image {result['image_id']}"
    if result.get("category_id") != category:
        raise DataError(f"category_id {result.get('category_id')!r} of {where}", allowed=f"{category}, as in the ground truth")
    keypoints = _numbers(result.get("keypoints", ()), 3 * num_keypoints, f"keypoints of {where}")
    return {
        "image_id": result["image_id"],
        "category_id": category,
        "keypoints": keypoints,
        "score": float(_numbers([result.get("score", np.nan)], 1, f"score of {where}")[0]),
        "area": float(np.ptp(keypoints[0::3]) * np.ptp(keypoints[1::3])),
    }


def _numbers(values: npt.ArrayLike, count: int, what: str) -> F64:
    """``values`` as float64; raises ``DataError`` for NaN, which pycocotools would silently accept."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise DataError(f"{what}: {str(values)[:80]}", allowed=f"{count} finite numbers")
    return numbers


def matched_images(evaluation: COCOeval) -> list[dict[str, Any] | None]:
    """The matches of each image over all instance sizes; None for an image without instances and results."""
    found: list[dict[str, Any] | None] = evaluation.evalImgs[: len(evaluation.params.imgIds)]
    return found


def _joint_similarity(evaluation: COCOeval, skeleton: Skeleton) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Keypoint similarity [N, K] of the instances that count with their match at OKS .5, and which joints are labelled."""
    instances, results = evaluation.cocoGt.anns, evaluation.cocoDt.anns
    similarity, labelled = [], []
    for image in filter(None, matched_images(evaluation)):
        for instance_id, result_id, ignored in zip(image["gtIds"], image["gtMatches"][0], image["gtIgnore"], strict=True):
            if ignored:
                continue
            truth = instances[instance_id]["keypoints"].reshape(-1, 3)
            row = np.zeros(skeleton.num_keypoints)
            if result_id:
                squared = np.square(results[int(result_id)]["keypoints"].reshape(-1, 3) - truth)[:, :2].sum(axis=1)
                row = keypoint_similarity(squared, instances[instance_id]["area"], skeleton=skeleton)
            similarity.append(row)
            labelled.append(truth[:, 2] > 0)
    return np.asarray(similarity), np.asarray(labelled)


def _joint_table(similarity_NK: F64, labelled_NK: npt.NDArray[np.bool_], skeleton: Skeleton) -> tuple[JointScore, ...]:
    count_K = labelled_NK.sum(axis=0)
    mean_K = (similarity_NK * labelled_NK).sum(axis=0) / np.maximum(count_K, 1)
    share_K = ((similarity_NK >= 0.5) & labelled_NK).sum(axis=0) / np.maximum(count_K, 1)
    columns = zip(skeleton.keypoints, count_K, mean_K, share_K, strict=True)
    return tuple(JointScore(name, int(count), float(mean), float(share)) for name, count, mean, share in columns)
