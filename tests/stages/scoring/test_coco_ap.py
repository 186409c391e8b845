from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.pose.skeleton import SIGMAS
from stages.scoring import coco_ap
from stages.scoring.coco_ap import evaluate, paired_bootstrap
from storage_schemas.errors import DataError
from tests.support.shared_data import shared_data

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
    """A result whose every joint has that keypoint similarity with ``person(shift=shift)``."""
    distance = 2 * SIGMAS * math.sqrt(-2 * AREA * math.log(similarity))
    xy = POSE_XY + np.stack([distance + shift, np.zeros(17)], axis=-1)
    return {"image_id": image_id, "category_id": 1, "keypoints": flat(xy, 0.9), "score": score}


def crowd_of_everything(seed: int, num_images: int = 30) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """People of all sizes, crowds, unlabelled people, empty images; results good and bad, with equal scores."""
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
        annotation["id"] += 1  # pycocotools takes the id 0 for no match
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def ten(scores: coco_ap.Scores) -> list[float]:
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
    return [getattr(scores, name) for name in names]


def ap_of(ground_truth: dict[str, Any], results: list[dict[str, Any]], image_ids: list[int] | None = None) -> float:
    return evaluate(ground_truth, results, image_ids=image_ids).AP


def test_a_result_of_oks_082_is_right_at_seven_of_ten_thresholds() -> None:
    scores = evaluate(truth([person(7, 1)]), [result(1, similarity=0.82)])
    assert ten(scores) == pytest.approx([0.7, 1, 1, -1, 0.7, 0.7, 1, 1, -1, 0.7])
    assert (scores.num_images, scores.num_people) == (2, 1)


def test_a_wrong_result_before_the_right_one_halves_the_precision() -> None:
    found = [result(1, score=0.5), result(2, score=0.9)]
    assert ap_of(truth([person(1, 1)]), found) == pytest.approx(0.5)
    assert ap_of(truth([person(1, 1), person(2, 2, shift=900)]), found[:1]) == pytest.approx(51 / 101)


def test_the_joint_table_counts_labelled_joints_and_nothing_for_people_not_found() -> None:
    unlabelled = person(2, 2)
    unlabelled["keypoints"][2] = 0
    unlabelled["num_keypoints"] = 16
    moved = result(1)
    moved["keypoints"][0] += 2 * SIGMAS[0] * math.sqrt(-2 * AREA * math.log(0.25))
    scores = evaluate(truth([person(1, 1), unlabelled, person(3, 2, crowd=1)]), [moved])
    nose, eye = scores.joints[:2]
    assert (nose.name, nose.labelled, nose.share) == ("nose", 1, 0.0)
    assert (eye.name, eye.labelled, eye.share) == ("left_eye", 2, 0.5)
    assert (nose.similarity, eye.similarity) == pytest.approx((0.25, 0.5))
    assert len(scores.joints) == 17


def test_an_unlabelled_person_and_a_crowd_without_keypoints_are_regions_to_ignore() -> None:
    crowd = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 900, 900], "area": 8e5, "iscrowd": 1}
    found = [result(1, score=0.5), result(2, score=0.9)]
    assert ap_of(truth([person(1, 1), crowd]), found) == pytest.approx(1.0)


def test_an_annotation_with_id_0_can_be_found() -> None:
    assert ap_of(truth([person(0, 1)]), [result(1)]) == pytest.approx(1.0)


def test_only_the_images_asked_for_count() -> None:
    ground_truth, found = truth([person(1, 1), person(2, 2)]), [result(1), result(2, similarity=0.4)]
    assert ap_of(ground_truth, found, image_ids=[1]) == pytest.approx(1.0)
    assert ap_of(ground_truth, found, image_ids=[2]) == 0.0
    assert ap_of(ground_truth, found) == pytest.approx(51 / 101)
    with pytest.raises(DataError, match=r"image_ids name images .* 99"):
        evaluate(ground_truth, found, image_ids=[1, 99])


def test_no_results_are_ap_0_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    scores = evaluate(truth([person(1, 1)]), [])
    assert ten(scores) == [0, 0, 0, -1, 0, 0, 0, 0, -1, 0]
    assert [joint.similarity for joint in scores.joints] == [0.0] * 17
    assert "no results" in caplog.text


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["keypoints", "score"])
def test_a_result_that_is_not_finite_is_refused(bad: float, field: str) -> None:
    broken = result(2)
    if field == "score":
        broken["score"] = bad
    else:
        broken["keypoints"][4] = bad
    with pytest.raises(DataError, match=f"{field} of result 1 on image 2"):
        evaluate(truth([person(1, 1)]), [result(1), broken])


@pytest.mark.parametrize("change", [{"keypoints": [1.0] * 50}, {"keypoints": "x"}, {"score": None}, {"category_id": 7}])
def test_a_malformed_result_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="result 0 on image 1"):
        evaluate(truth([person(1, 1)]), [result(1) | change])


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"results are on images .*: '1', 12 \(2 in all\)"):
        evaluate(truth([person(1, 1)]), [result(12), result(1) | {"image_id": "1"}])


@pytest.mark.parametrize("people", [[], [person(1, 1, crowd=1)], [person(1, 1) | {"num_keypoints": 0}]])
def test_a_ground_truth_with_nobody_to_find_is_refused(people: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="no person with a labelled joint"):
        evaluate(truth(people), [result(1)])


def test_a_person_without_an_area_is_refused_by_id() -> None:
    broken = person(31, 1)
    del broken["area"]
    with pytest.raises(DataError, match="area of annotation 31"):
        evaluate(truth([broken]), [result(1)])


def test_nothing_is_printed_and_nothing_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    ground_truth, found = crowd_of_everything(0)
    before = copy.deepcopy((ground_truth, found))
    evaluate(ground_truth, found)
    assert (ground_truth, found) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(4))
def test_all_ten_numbers_are_pycocotools_own_and_a_box_changes_none(seed: int) -> None:
    ground_truth, found = crowd_of_everything(seed)
    expected = by_pycocotools(ground_truth, found)
    assert ten(evaluate(ground_truth, found)) == expected
    assert ten(evaluate(ground_truth, [one | {"bbox": [0, 0, 1, 1]} for one in found])) == expected


@pytest.mark.parametrize("seed", range(4))
def test_the_bootstrap_without_weights_is_pycocotools_ap(seed: int) -> None:
    ground_truth, found = crowd_of_everything(seed)
    outcome = paired_bootstrap(ground_truth, found, found[::2], seed=0, num_resamples=2)
    assert outcome.ap_a == pytest.approx(by_pycocotools(ground_truth, found)[0], abs=1e-12)
    assert outcome.ap_b == pytest.approx(by_pycocotools(ground_truth, found[::2])[0], abs=1e-12)
    assert outcome.difference == outcome.ap_b - outcome.ap_a
    assert outcome.num_images == 30


def test_a_resample_is_the_ap_of_images_really_repeated() -> None:
    ground_truth, found = crowd_of_everything(5)
    rng = np.random.default_rng(0)
    # Ties between images are broken by image order, which repeating changes: give every result a score of its own.
    found = [one | {"score": float(score)} for one, score in zip(found, rng.permutation(len(found)), strict=True)]
    weights = rng.multinomial(30, np.full(30, 1 / 30))
    repeated = truth([], int(weights.sum()))
    repeated_results: list[dict[str, Any]] = []
    for copied, original in enumerate(np.repeat(np.arange(1, 31), weights), start=1):
        for one in ground_truth["annotations"]:
            if one["image_id"] == original:
                repeated["annotations"].append(one | {"image_id": copied, "id": len(repeated["annotations"])})
        repeated_results += [one | {"image_id": copied} for one in found if one["image_id"] == original]
    matches = coco_ap._matches(coco_ap._run(ground_truth, found, None))
    weighted = coco_ap._weighted_ap(matches, weights[None])
    assert weighted == pytest.approx(by_pycocotools(repeated, repeated_results)[:1], abs=1e-12)


def test_rows_scored_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ground_truth, found = crowd_of_everything(6)
    whole = paired_bootstrap(ground_truth, found[::2], found, seed=3, num_resamples=50)
    monkeypatch.setattr(coco_ap, "_MAX_CELLS", 300)
    assert paired_bootstrap(ground_truth, found[::2], found, seed=3, num_resamples=50) == whole


def test_a_method_is_not_better_than_itself_and_a_better_one_is_seen() -> None:
    ground_truth = truth([person(i, i) for i in range(1, 41)], 40)
    rng = np.random.default_rng(0)
    good = [result(i, similarity=rng.uniform(0.8, 1), score=rng.random()) for i in range(1, 41)]
    poor = [result(i, similarity=rng.uniform(0.5, 1), score=rng.random()) for i in range(1, 41)]
    same = paired_bootstrap(ground_truth, good, good, seed=0, num_resamples=300)
    assert (same.difference, same.low, same.high, same.share_not_better) == (0, 0, 0, 1)
    better = paired_bootstrap(ground_truth, poor, good, seed=0, num_resamples=300)
    assert 0 < better.low < better.difference < better.high
    assert better.share_not_better < 0.02
    worse = paired_bootstrap(ground_truth, good, poor, seed=0, num_resamples=300)
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    assert paired_bootstrap(ground_truth, poor, good, seed=0, num_resamples=300) == better
    assert paired_bootstrap(ground_truth, poor, good, seed=1, num_resamples=300) != better


def test_no_results_of_one_method_are_ap_0_in_every_resample() -> None:
    outcome = paired_bootstrap(truth([person(1, 1), person(2, 2)]), [], [result(1), result(2)], seed=0)
    assert (outcome.ap_a, outcome.ap_b, outcome.low, outcome.high) == pytest.approx((0, 1, 1, 1))


def test_the_bootstrap_takes_a_subset_of_images() -> None:
    ground_truth, found = crowd_of_everything(7)
    ids = range(1, 16)
    outcome = paired_bootstrap(ground_truth, found, found, seed=0, num_resamples=2, image_ids=ids)
    assert outcome.num_images == 15
    assert outcome.ap_a == pytest.approx(evaluate(ground_truth, found, image_ids=ids).AP, abs=1e-12)


def test_cocoapis_published_example_comes_out_to_three_digits() -> None:
    folder = shared_data("coco_fakekeypoints100")
    ground_truth = json.loads((folder / "person_keypoints_val2014_100.json").read_text())
    found = json.loads((folder / "person_keypoints_val2014_fakekeypoints100_results.json").read_text())
    scores = evaluate(ground_truth, found)
    expected = [0.372, 0.636, 0.348, 0.384, 0.386, 0.514, 0.734, 0.504, 0.508, 0.522]
    assert [round(value, 3) for value in ten(scores)] == expected
    assert (scores.num_images, scores.num_people) == (100, 139)
    assert paired_bootstrap(ground_truth, found, found, seed=0, num_resamples=2).ap_a == pytest.approx(scores.AP, abs=1e-12)
