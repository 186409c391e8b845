from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from stages.pose.skeleton import COCO_17
from stages.scoring import coco_ap
from stages.scoring.coco_ap import evaluate
from storage_schemas.errors import DataError
from tests.support.ap_samples import AREA, by_pycocotools, crowd_of_everything, person, result, truth
from tests.support.shared_data import shared_data


def ten(scores: coco_ap.Scores) -> list[float]:
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
    return [getattr(scores, name) for name in names]


def ap_of(ground_truth: dict[str, Any], results: list[dict[str, Any]], image_ids: list[int] | None = None) -> float:
    return evaluate(ground_truth, results, image_ids=image_ids, skeleton=COCO_17).AP


def test_a_result_of_oks_082_is_right_at_seven_of_ten_thresholds() -> None:
    scores = evaluate(truth([person(7, 1)]), [result(1, similarity=0.82)], skeleton=COCO_17)
    assert ten(scores) == pytest.approx([0.7, 1, 1, -1, 0.7, 0.7, 1, 1, -1, 0.7])
    assert (scores.num_images, scores.num_instances) == (2, 1)


def test_a_wrong_result_before_the_right_one_halves_the_precision() -> None:
    found = [result(1, score=0.5), result(2, score=0.9)]
    assert ap_of(truth([person(1, 1)]), found) == pytest.approx(0.5)
    assert ap_of(truth([person(1, 1), person(2, 2, shift=900)]), found[:1]) == pytest.approx(51 / 101)


def test_the_joint_table_counts_labelled_joints_and_zero_for_unmatched_instances() -> None:
    unlabelled = person(2, 2)
    unlabelled["keypoints"][2] = 0
    unlabelled["num_keypoints"] = 16
    moved = result(1)
    moved["keypoints"][0] += 2 * COCO_17.sigmas_K[0] * math.sqrt(-2 * AREA * math.log(0.25))
    scores = evaluate(truth([person(1, 1), unlabelled, person(3, 2, crowd=1)]), [moved], skeleton=COCO_17)
    nose, eye = scores.joints[:2]
    assert (nose.name, nose.labelled, nose.share) == ("nose", 1, 0.0)
    assert (eye.name, eye.labelled, eye.share) == ("left_eye", 2, 0.5)
    assert (nose.similarity, eye.similarity) == pytest.approx((0.25, 0.5))
    assert len(scores.joints) == 17


def test_an_unlabelled_instance_and_a_crowd_without_keypoints_are_regions_to_ignore() -> None:
    crowd = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 900, 900], "area": 8e5, "iscrowd": 1}
    found = [result(1, score=0.5), result(2, score=0.9)]
    assert ap_of(truth([person(1, 1), crowd]), found) == pytest.approx(1.0)


def test_an_annotation_with_id_0_can_be_matched() -> None:
    assert ap_of(truth([person(0, 1)]), [result(1)]) == pytest.approx(1.0)


def test_only_the_given_images_are_scored() -> None:
    ground_truth, found = truth([person(1, 1), person(2, 2)]), [result(1), result(2, similarity=0.4)]
    assert ap_of(ground_truth, found, image_ids=[1]) == pytest.approx(1.0)
    assert ap_of(ground_truth, found, image_ids=[2]) == 0.0
    assert ap_of(ground_truth, found) == pytest.approx(51 / 101)
    with pytest.raises(DataError, match=r"image_ids name images .* 99"):
        evaluate(ground_truth, found, image_ids=[1, 99], skeleton=COCO_17)


def test_without_results_the_ap_is_0_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    scores = evaluate(truth([person(1, 1)]), [], skeleton=COCO_17)
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
        evaluate(truth([person(1, 1)]), [result(1), broken], skeleton=COCO_17)


@pytest.mark.parametrize("change", [{"keypoints": [1.0] * 50}, {"keypoints": "x"}, {"score": None}, {"category_id": 7}])
def test_a_malformed_result_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="result 0 on image 1"):
        evaluate(truth([person(1, 1)]), [result(1) | change], skeleton=COCO_17)


def test_an_unknown_image_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"results are on images .*: '1', 12 \(2 in all\)"):
        evaluate(truth([person(1, 1)]), [result(12), result(1) | {"image_id": "1"}], skeleton=COCO_17)


@pytest.mark.parametrize("people", [[], [person(1, 1, crowd=1)], [person(1, 1) | {"num_keypoints": 0}]])
def test_a_ground_truth_without_labelled_instances_is_refused(people: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="no instance with a labelled joint"):
        evaluate(truth(people), [result(1)], skeleton=COCO_17)


def test_an_instance_without_an_area_is_refused_by_id() -> None:
    broken = person(31, 1)
    del broken["area"]
    with pytest.raises(DataError, match="area of annotation 31"):
        evaluate(truth([broken]), [result(1)], skeleton=COCO_17)


def test_evaluate_prints_nothing_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ground_truth, found = crowd_of_everything(0)
    before = copy.deepcopy((ground_truth, found))
    evaluate(ground_truth, found, skeleton=COCO_17)
    assert (ground_truth, found) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(50))
def test_all_ten_numbers_equal_pycocotools_and_a_box_changes_none(seed: int) -> None:
    ground_truth, found = crowd_of_everything(seed)
    expected = by_pycocotools(ground_truth, found)
    assert ten(evaluate(ground_truth, found, skeleton=COCO_17)) == expected
    assert ten(evaluate(ground_truth, [one | {"bbox": [0, 0, 1, 1]} for one in found], skeleton=COCO_17)) == expected


def test_the_published_example_of_cocoapi_is_reproduced_to_three_digits() -> None:
    folder = shared_data("coco_fakekeypoints100")
    ground_truth = json.loads((folder / "person_keypoints_val2014_100.json").read_text())
    found = json.loads((folder / "person_keypoints_val2014_fakekeypoints100_results.json").read_text())
    scores = evaluate(ground_truth, found, skeleton=COCO_17)
    expected = [0.372, 0.636, 0.348, 0.384, 0.386, 0.514, 0.734, 0.504, 0.508, 0.522]
    assert [round(value, 3) for value in ten(scores)] == expected
    assert (scores.num_images, scores.num_instances) == (100, 139)
