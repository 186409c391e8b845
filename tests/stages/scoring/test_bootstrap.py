"""The paired bootstrap, against pycocotools on images that are really repeated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from stages.pose.skeleton import COCO_17
from stages.scoring import bootstrap
from stages.scoring.bootstrap import paired_bootstrap
from stages.scoring.coco_ap import evaluate, match_results
from tests.support.ap_samples import by_pycocotools, crowd_of_everything, person, result, truth
from tests.support.shared_data import shared_data


@pytest.mark.parametrize("seed", range(4))
def test_with_all_weights_1_the_ap_equals_pycocotools(seed: int) -> None:
    ground_truth, found = crowd_of_everything(seed)
    outcome = paired_bootstrap(ground_truth, found, found[::2], seed=0, num_resamples=2, skeleton=COCO_17)
    assert outcome.ap_a == pytest.approx(by_pycocotools(ground_truth, found)[0], abs=1e-12)
    assert outcome.ap_b == pytest.approx(by_pycocotools(ground_truth, found[::2])[0], abs=1e-12)
    assert outcome.difference == outcome.ap_b - outcome.ap_a
    assert outcome.num_images == 30


def test_a_resample_scores_as_if_the_images_were_repeated() -> None:
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
    matches = bootstrap._matches(match_results(ground_truth, found, COCO_17, None))
    weighted = bootstrap._weighted_ap(matches, weights[None])
    assert weighted == pytest.approx(by_pycocotools(repeated, repeated_results)[:1], abs=1e-12)


def test_scoring_in_blocks_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    ground_truth, found = crowd_of_everything(6)
    whole = paired_bootstrap(ground_truth, found[::2], found, seed=3, num_resamples=50, skeleton=COCO_17)
    monkeypatch.setattr(bootstrap, "_MAX_CELLS", 300)
    assert paired_bootstrap(ground_truth, found[::2], found, seed=3, num_resamples=50, skeleton=COCO_17) == whole


def test_a_method_does_not_beat_itself_and_a_better_method_is_detected() -> None:
    ground_truth = truth([person(i, i) for i in range(1, 41)], 40)
    rng = np.random.default_rng(0)
    good = [result(i, similarity=rng.uniform(0.8, 1), score=rng.random()) for i in range(1, 41)]
    poor = [result(i, similarity=rng.uniform(0.5, 1), score=rng.random()) for i in range(1, 41)]
    same = paired_bootstrap(ground_truth, good, good, seed=0, num_resamples=300, skeleton=COCO_17)
    assert (same.difference, same.low, same.high, same.share_not_better) == (0, 0, 0, 1)
    better = paired_bootstrap(ground_truth, poor, good, seed=0, num_resamples=300, skeleton=COCO_17)
    assert 0 < better.low < better.difference < better.high
    assert better.share_not_better < 0.02
    worse = paired_bootstrap(ground_truth, good, poor, seed=0, num_resamples=300, skeleton=COCO_17)
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    assert paired_bootstrap(ground_truth, poor, good, seed=0, num_resamples=300, skeleton=COCO_17) == better
    assert paired_bootstrap(ground_truth, poor, good, seed=1, num_resamples=300, skeleton=COCO_17) != better


def test_a_method_without_results_has_ap_0_in_every_resample() -> None:
    outcome = paired_bootstrap(truth([person(1, 1), person(2, 2)]), [], [result(1), result(2)], seed=0, skeleton=COCO_17)
    assert (outcome.ap_a, outcome.ap_b, outcome.low, outcome.high) == pytest.approx((0, 1, 1, 1))


def test_the_bootstrap_can_use_a_subset_of_the_images() -> None:
    ground_truth, found = crowd_of_everything(7)
    ids = range(1, 16)
    outcome = paired_bootstrap(ground_truth, found, found, seed=0, num_resamples=2, image_ids=ids, skeleton=COCO_17)
    assert outcome.num_images == 15
    assert outcome.ap_a == pytest.approx(evaluate(ground_truth, found, image_ids=ids, skeleton=COCO_17).AP, abs=1e-12)


def test_the_ap_of_cocoapis_published_example_is_the_same_as_without_resamples() -> None:
    folder = shared_data("coco_fakekeypoints100")
    ground_truth = json.loads((folder / "person_keypoints_val2014_100.json").read_text())
    found = json.loads((folder / "person_keypoints_val2014_fakekeypoints100_results.json").read_text())
    outcome = paired_bootstrap(ground_truth, found, found, seed=0, num_resamples=2, skeleton=COCO_17)
    assert outcome.ap_a == pytest.approx(evaluate(ground_truth, found, skeleton=COCO_17).AP, abs=1e-12)
