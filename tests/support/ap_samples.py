"""COCO ground truth and results with known similarities, and their AP by plain pycocotools, for tests of AP."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.pose.skeleton import COCO_17

AREA = 10_000.0
POSE_XY = np.stack([np.linspace(20, 80, 17), np.linspace(30, 150, 17)], axis=-1)


def flat(xy: npt.NDArray[np.float64], last: float = 2) -> list[float]:
    return [float(value) for value in np.c_[xy, np.full(17, last)].ravel()]


def person(annotation_id: int, image_id: int, *, shift: float = 0.0, area: float = AREA, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": flat(POSE_XY + np.array([shift, 0])),
        "num_keypoints": 17,
        "bbox": [20.0 + shift, 30.0, 60.0, 120.0],
        "area": area,
        "iscrowd": crowd,
    }


def truth(people: list[dict[str, Any]], num_images: int = 2) -> dict[str, Any]:
    return {
        "images": [{"id": image_id} for image_id in range(1, num_images + 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }


def result(image_id: int, *, similarity: float = 1.0, score: float = 0.5, shift: float = 0.0) -> dict[str, Any]:
    """Return a result in which each joint has this keypoint similarity to ``person(shift=shift)``."""
    distance = 2 * COCO_17.sigmas_K * math.sqrt(-2 * AREA * math.log(similarity))
    xy = POSE_XY + np.stack([distance + shift, np.zeros(17)], axis=-1)
    return {"image_id": image_id, "category_id": 1, "keypoints": flat(xy, 0.9), "score": score}


def crowd_of_everything(seed: int, num_images: int = 30) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return instances of all sizes, crowds, unlabelled ones and empty images, with good and bad results of equal scores."""
    rng = np.random.default_rng(seed)
    people: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for index in range(int(rng.integers(0, 4))):
            shift = 150.0 * index
            one = person(len(people), image_id, shift=shift, area=float(rng.uniform(500, 20_000)))
            one["iscrowd"] = int(rng.random() < 0.1)
            if rng.random() < 0.1:
                one |= {"num_keypoints": 0, "keypoints": [0.0] * 51}
            people.append(one)
            for _ in range(int(rng.integers(0, 3))):
                similarity, score = rng.uniform(0.3, 1.0), round(float(rng.random()), 1)
                results.append(result(image_id, similarity=similarity, score=score, shift=shift))
        if image_id % 10 == 0:
            results += [result(image_id, similarity=0.6, score=float(rng.random())) for _ in range(25)]
    return truth(people, num_images), results


def by_pycocotools(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    coco = COCO()
    coco.dataset = copy.deepcopy(ground_truth)
    for annotation in coco.dataset["annotations"]:
        annotation["id"] += 1  # pycocotools reads id 0 as "no match"
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats]
