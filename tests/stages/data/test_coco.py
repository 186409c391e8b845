"""Annotations are sorted into usable, skipped and broken ones, and no broken one passes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.data.coco import Quarantined, Record, SortedOut, ground_truth_json, read_coco, sort_out
from stages.pose.skeleton import COCO_17
from stages.scoring.coco_ap import evaluate
from stages.scoring.coco_results import coco_results
from tests.support.coco_samples import IMAGE, Json, keypoints, person
from tests.support.shared_data import shared_data

NAN, INF = float("nan"), float("inf")


def sorted_file(
    folder: Path,
    *annotations: Json,
    images: list[Json] | None = None,
    person_id: int = 1,
) -> tuple[SortedOut, Json]:
    """Write a file as JSON, read it and sort it out; returns the result and the ground truth."""
    categories = [{"id": person_id, "name": "person"}, {"id": 2, "name": "dog"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images or [IMAGE], "annotations": annotations, "categories": categories}))
    coco = read_coco(path, COCO_17)
    found = sort_out(coco, aspect_wh=0.75)
    truth = ground_truth_json(coco, quarantine=found.quarantine)
    json.dumps([truth, [item.as_dict() for item in found.quarantine]], allow_nan=False)
    return found, truth


def test_a_valid_instance_becomes_a_record_by_hrnets_rule(tmp_path: Path) -> None:
    found, _ = sorted_file(tmp_path, person())
    assert (found.quarantine, found.skipped) == ([], {})
    (record,) = found.records
    assert isinstance(record, Record)
    # Clipped: x2 = min(199, 20 + 60 - 1) = 79, so w = 59; h = 79. Centre (20 + 29.5, 10 + 39.5).
    np.testing.assert_allclose(record.box_4, [20, 10, 59, 79])
    np.testing.assert_allclose(record.center_2, [49.5, 49.5])
    # 59 / 79 is under 3 / 4: the width grows to 59.25; a quarter more on both.
    np.testing.assert_allclose(record.size_2, [59.25 * 1.25, 79 * 1.25])
    assert (record.annotation_id, record.image_id, record.file_name, record.width, record.height) == (10, 1, "a.jpg", 200, 100)
    assert record.area == 2400.0
    assert record.keypoints_K3.dtype == np.float32
    assert record.keypoints_K3[:3].tolist() == [[50, 20, 2], [52, 18, 1], [0, 0, 0]]
    assert record.mask_rle is not None


def test_a_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    found, truth = sorted_file(tmp_path, person(bbox=[150, -10, 100, 60]))
    # x2 = min(199, 249), y: starts at 0, y2 = 59 (HRNet moves it in): [150, 0, 49, 59].
    np.testing.assert_allclose(found.records[0].box_4, [150, 0, 49, 59])
    assert truth["annotations"][0]["bbox"] == [150, -10, 100, 60]


def test_keypoints_without_a_label_are_at_the_origin(tmp_path: Path) -> None:
    found, _ = sorted_file(tmp_path, person(keypoints=keypoints((50, 20, 2), (1e30, -7, 0), (3, 4, 1))))
    assert found.records[0].keypoints_K3[:3].tolist() == [[50, 20, 2], [0, 0, 0], [3, 4, 1]]


def test_whole_numbers_that_are_written_as_floats_give_the_same_records(tmp_path: Path) -> None:
    crowd = person(id=11, iscrowd=1, segmentation={"size": [100, 200], "counts": [5, 19995]})
    floats = person(
        id=10.0,
        image_id=1.0,
        category_id=1.0,
        iscrowd=0.0,
        num_keypoints=2.0,
        keypoints=keypoints((50.0, 20.0, 2.0), (52, 18, 1)),
    )
    found, truth = sorted_file(tmp_path, floats, crowd, images=[IMAGE | {"id": 1.0, "width": 200.0, "height": 100.0}])
    expected, expected_truth = sorted_file(tmp_path, person(), crowd)
    assert json.dumps(truth["images"]) == json.dumps(expected_truth["images"])
    assert (found.quarantine, found.skipped) == ([], expected.skipped)
    assert repr(found.records) == repr(expected.records)


def test_instances_are_sorted_by_image_and_then_by_id(tmp_path: Path) -> None:
    images = [IMAGE | {"id": 7}, IMAGE | {"id": 3}]
    entry_ids = [(5, 7), (9, 3), (2, 7), (4, 3)]
    found, _ = sorted_file(tmp_path, *(person(id=key, image_id=image) for key, image in entry_ids), images=images)
    assert [(record.image_id, record.annotation_id) for record in found.records] == [(3, 4), (3, 9), (7, 2), (7, 5)]


@pytest.mark.parametrize("person_id", [1, 0, 7])
def test_the_ground_truth_has_cocos_category_id_for_any_id_in_the_file(tmp_path: Path, person_id: int) -> None:
    people = (person(category_id=person_id), person(id=11, category_id=2), person(id=12, category_id=person_id, iscrowd=1))
    found, truth = sorted_file(tmp_path, *people, person_id=person_id)
    assert found.skipped == {"other category": 1, "crowd": 1}
    assert [category["id"] for category in truth["categories"]] == [1]
    assert [(item["id"], item["category_id"]) for item in truth["annotations"]] == [(10, 1), (12, 1)]
    (record,) = found.records
    results = coco_results(np.array([record.image_id]), np.array([1.0]), record.keypoints_K3[None])
    average_precision = evaluate(truth, results, skeleton=COCO_17).AP
    assert average_precision == pytest.approx(1.0)
    # Users will read the ground truth with COCO's own tools.
    for name, content in (("truth.json", truth), ("results.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    official = COCO(tmp_path / "truth.json")
    scorer = COCOeval(official, official.loadRes(str(tmp_path / "results.json")), "keypoints")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    assert scorer.stats[0] == pytest.approx(1.0)


# --- skipped by rule


@pytest.mark.parametrize(
    ("changes", "rule", "kept_as_region"),
    [
        ({"iscrowd": 1, "keypoints": keypoints(), "num_keypoints": 0}, "crowd", True),
        ({"iscrowd": 1, "keypoints": ..., "num_keypoints": ...}, "crowd", True),
        ({"iscrowd": 1, "segmentation": {"size": [100, 200], "counts": [5, 19995]}}, "crowd", True),
        ({"keypoints": keypoints(), "num_keypoints": 0}, "no labelled joint", True),
        ({"keypoints": [], "num_keypoints": 0}, "no labelled joint", True),
        ({"keypoints": ..., "num_keypoints": ...}, "no labelled joint", True),
        ({"keypoints": keypoints(), "num_keypoints": 0, "area": 0, "bbox": [0, 0, 0, 0]}, "no labelled joint", True),
        ({"category_id": 2, "bbox": None, "keypoints": "dog"}, "other category", False),
    ],
)
def test_skipped_annotations_are_counted_and_people_stay_as_regions(
    tmp_path: Path, changes: Json, rule: str, kept_as_region: bool
) -> None:
    found, truth = sorted_file(tmp_path, person(**changes), person(id=11))
    assert (found.quarantine, found.skipped) == ([], {rule: 1})
    assert [record.annotation_id for record in found.records] == [11]
    assert [item["id"] for item in truth["annotations"]] == ([10, 11] if kept_as_region else [11])
    assert evaluate(truth, [], skeleton=COCO_17).num_instances == 1


NO_PIXEL = {"size": [100, 200], "counts": [20_000]}


@pytest.mark.parametrize("nothing", [..., None, [], {}, [[]], [[50, 50]], [[20, 10, 80, 10]], [[10] * 6], [None], NO_PIXEL])
def test_an_instance_without_a_segmentation_has_no_mask(tmp_path: Path, nothing: object) -> None:
    found, _ = sorted_file(tmp_path, person(segmentation=nothing))
    assert [record.mask_rle for record in found.records] == [None]
    assert found.quarantine == []


@pytest.mark.parametrize("missing", [..., None, NAN])
def test_fields_that_can_be_computed_may_be_missing(tmp_path: Path, missing: object) -> None:
    found, truth = sorted_file(tmp_path, person(num_keypoints=missing, iscrowd=missing))
    assert len(found.records) == 1
    assert (truth["annotations"][0]["num_keypoints"], truth["annotations"][0]["iscrowd"]) == (2, 0)


# --- broken instances


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": [20, 10, 0, 80]}, "bbox: .* no width"),
        ({"bbox": [20, 10, 0, 80], "area": 50}, "bbox: .* no width"),
        ({"bbox": [20, 10, 60, 0]}, "bbox: .* no width or no height"),
        ({"bbox": [20, 10, -60, 80]}, "bbox: .* negative"),
        ({"bbox": [NAN, 10, 60, 80]}, "bbox: .* not four finite"),
        ({"bbox": [20, 10, INF, 80]}, "bbox: .* not four finite"),
        ({"bbox": [20, 10, 10**400, 80]}, "bbox: .* not four finite"),
        ({"bbox": [20, 10, 60]}, "bbox: .* not four finite"),
        ({"bbox": ["20", 10, 60, 80]}, "bbox: .* not four finite"),
        ({"bbox": [True, 10, 60, 80]}, "bbox: .* not four finite"),
        ({"bbox": [[20], 10, 60, 80]}, "bbox: .* not four finite"),
        ({"bbox": None}, "bbox: None"),
        ({"bbox": ...}, "bbox: None"),
        ({"bbox": [200, 10, 60, 80]}, "bbox: .* outside of the image of 200 x 100"),
        ({"bbox": [20, 100, 60, 80]}, "bbox: .* outside of"),
        ({"bbox": [-80, 10, 60, 80]}, "bbox: .* outside of"),
        ({"bbox": [-60, 10, 60, 80]}, "bbox: .* less than a pixel"),
        ({"bbox": [199.5, 10, 60, 80]}, "bbox: .* less than a pixel"),
        ({"bbox": [20, 10, 1, 1], "area": 1}, "bbox: .* less than a pixel in the image$"),
        ({"bbox": [0.2, 0.1, 0.3, 0.8], "area": 0.2}, "bbox: .* less than a pixel in the image; fractions"),
        ({"bbox": [0.2, 0.1, 0.3, 0.8]}, "bbox: .* less than a pixel in the image; fractions"),
        ({"bbox": [0, 0, 1e9, 1e9]}, "bbox: .* more than 10 times the image"),
        ({"bbox": [-1e9, 0, 1e9, 50]}, "bbox: .* more than 10 times the image"),
        ({"area": 0}, "area: 0 is not above 0"),
        ({"area": -1}, "area: -1 is not a finite number from 0"),
        ({"area": NAN}, "area: nan"),
        ({"area": INF}, "area: inf"),
        ({"area": "2400"}, "area: '2400'"),
        ({"area": ...}, "area: None"),
        ({"area": 1e9}, "area: .* more than 2 times that of the box"),
        ({"keypoints": keypoints((50, 20, 2), (52, 18, 1))[:-1]}, "keypoints: 50 values, not 51"),
        ({"keypoints": [*keypoints((50, 20, 2), (52, 18, 1)), 0, 0, 0]}, "keypoints: 54 values"),
        ({"keypoints": "none"}, "keypoints: 'none', not 51"),
        ({"keypoints": keypoints((50, 20, 3), (52, 18, 1))}, "keypoints: a v that is not 0, 1 or 2"),
        ({"keypoints": keypoints((50, 20, 0.5), (52, 18, 1))}, "keypoints: a v that is not"),
        ({"keypoints": keypoints((50, 20, -1), (52, 18, 1))}, "keypoints: a v that is not"),
        ({"keypoints": keypoints((NAN, 20, 2), (52, 18, 1))}, r"keypoints: .* not finite numbers: nose is \[nan, 20, 2\]"),
        ({"keypoints": keypoints((50, INF, 2), (52, 18, 1))}, r"keypoints: .* not finite numbers: nose is \[50, inf, 2\]"),
        ({"keypoints": [50, 20, 2, 52, "18", 1] + [0] * 45}, r"keypoints: .*: left_eye is \[52, '18', 1\]"),
        ({"keypoints": [50, 20, 2, None, 18, 1] + [0] * 45}, r"keypoints: .*: left_eye is \[None, 18, 1\]"),
        ({"keypoints": [50, 20, 2, 52, 10**400, 1] + [0] * 45}, "keypoints: .*: left_eye is "),
        ({"keypoints": keypoints((50, 20, 2), (52, 18, NAN))}, "keypoints: a v that is not 0, 1 or 2: left_eye is "),
        ({"keypoints": keypoints((301, 20, 2), (52, 18, 1))}, r"keypoints: .* far outside .* nose is at \[301.0, 20.0\]"),
        ({"keypoints": keypoints((50, -51, 2), (52, 18, 1))}, "keypoints: a labelled keypoint far outside"),
        ({"keypoints": keypoints((50, 1e9, 2), (52, 18, 1))}, "keypoints: a labelled keypoint far outside"),
        ({"num_keypoints": 3}, "num_keypoints: 3, but 2 keypoints"),
        ({"num_keypoints": 0}, "num_keypoints: 0, but 2 keypoints"),
        ({"num_keypoints": "2"}, "num_keypoints: '2'"),
        ({"num_keypoints": 2.5}, "num_keypoints: 2.5"),
        ({"num_keypoints": 3.0}, "num_keypoints: 3, but 2 keypoints"),
        ({"keypoints": ...}, "num_keypoints: 2, but 0 keypoints"),
        ({"iscrowd": 2}, "iscrowd: 2"),
        ({"iscrowd": "0"}, "iscrowd: '0'"),
        ({"category_id": 5}, "category: 5"),
        ({"category_id": ...}, "category: None"),
        ({"category_id": [1]}, "category: "),
        ({"segmentation": [[20, 10, 80, 10, 80]] * 2 + [[20, 10, 80, 10, 80, 90, 20]]}, "segmentation: "),
        ({"segmentation": [[20, 10, 80, 10, NAN, 90]]}, "segmentation: "),
        ({"segmentation": {"size": [200, 100], "counts": [20000]}}, "segmentation: run lengths are not of size"),
        ({"segmentation": "1 2 3"}, "segmentation: "),
        # Ignored regions are checked too: with a too large box or area they would match every wrong result.
        ({"iscrowd": 1, "bbox": [0, 0, 1e9, 1e9]}, "bbox: "),
        ({"iscrowd": 1, "area": NAN}, "area: "),
        ({"keypoints": keypoints(), "num_keypoints": 0, "area": 1e9}, "area: "),
        ({"keypoints": keypoints(), "num_keypoints": 4}, "num_keypoints: 4"),
    ],
)
def test_a_broken_instance_is_quarantined_with_its_id_and_reason(tmp_path: Path, changes: Json, reason: str) -> None:
    found, truth = sorted_file(tmp_path, person(**changes), person(id=11))
    (item,) = found.quarantine
    assert (item.annotation_id, item.image_id, item.file_name) == (10, 1, "a.jpg")
    assert item.kind == reason.partition(":")[0]
    assert re.match(reason, item.reason), item.reason
    assert len(item.reason) < 200
    assert [record.annotation_id for record in found.records] == [11]
    assert [record["id"] for record in truth["annotations"]] == [11]
    evaluate(truth, [], skeleton=COCO_17)


def test_keypoints_up_to_half_an_image_outside_are_kept(tmp_path: Path) -> None:
    found, _ = sorted_file(tmp_path, person(keypoints=keypoints((300, 150, 2), (-100, -50, 1))))
    assert found.records[0].keypoints_K3[:2, :2].tolist() == [[300, 150], [-100, -50]]


# --- broken images


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file_name": "/etc/passwd"}, "file_name: an absolute path"),
        ({"file_name": "../../x.jpg"}, "file_name: leads out"),
        ({"file_name": "a\0.jpg"}, "file_name: holds NUL"),
        ({"file_name": "x" * 4096}, "file_name: 4096 bytes long"),
        ({"file_name": ""}, "file_name: not a name"),
        ({"file_name": None}, "file_name: not a name: None"),
        ({"width": 0}, "size: 0 x 100: width and height are not whole numbers above 0"),
        ({"width": 10**400}, "size: 100000000000000000...0000000000000000000 x 100 has a side"),
        ({"height": -100}, "size: "),
        ({"width": 200.5}, "size: 200.5 x 100: width and height"),
        ({"width": "200"}, "size: '200' x 100: "),
        ({"width": None}, "size: "),
        ({"width": 20000, "height": 20000}, "size: 20000 x 20000 is more than 100 megapixels"),
        ({"width": 65000, "height": 65000}, "size: 65000 x 65000 has a side"),
    ],
)
def test_all_instances_of_a_broken_image_are_quarantined(tmp_path: Path, changes: Json, reason: str) -> None:
    images = [IMAGE | changes, IMAGE | {"id": 2}]
    people = [person(), person(id=11, iscrowd=1), person(id=12, image_id=2), person(id=13, category_id=2)]
    found, truth = sorted_file(tmp_path, *people, images=images)
    assert [(item.annotation_id, item.image_id) for item in found.quarantine] == [(10, 1), (11, 1)]
    assert all(item.reason.startswith(reason) for item in found.quarantine)
    assert [record.annotation_id for record in found.records] == [12]
    assert [image["id"] for image in truth["images"]] == [2]
    assert [record["id"] for record in truth["annotations"]] == [12]


def test_a_broken_image_without_instances_is_quarantined(tmp_path: Path) -> None:
    found, truth = sorted_file(tmp_path, person(), images=[IMAGE, IMAGE | {"id": 2, "file_name": "/x.jpg"}])
    assert found.quarantine == [Quarantined(None, 2, "/x.jpg", "file_name", "an absolute path")]
    assert [image["id"] for image in truth["images"]] == [1]


def test_bad_images_and_their_annotations_are_not_in_the_ground_truth(tmp_path: Path) -> None:
    sorted_file(tmp_path, person(), person(id=11, image_id=2), images=[IMAGE, IMAGE | {"id": 2}])
    truth = ground_truth_json(read_coco(tmp_path / "annotations.json", COCO_17), quarantine=[], bad_images={1})
    assert [image["id"] for image in truth["images"]] == [2]
    assert [record["id"] for record in truth["annotations"]] == [11]


# --- empty sets, holding out, real data


def test_sets_without_usable_instances_have_no_records(tmp_path: Path) -> None:
    found, truth = sorted_file(tmp_path)
    assert (found.records, found.quarantine, found.skipped, truth["annotations"]) == ([], [], {}, [])
    crowds = [person(id=key, iscrowd=1, keypoints=keypoints(), num_keypoints=0) for key in range(3)]
    found, truth = sorted_file(tmp_path, *crowds)
    assert (found.records, found.skipped, len(truth["annotations"])) == ([], {"crowd": 3}, 3)


def test_ids_of_64_bits_are_kept(tmp_path: Path) -> None:
    largest, least = 2**63 - 1, -(2**63)
    found, _ = sorted_file(tmp_path, person(id=largest, image_id=least), images=[IMAGE | {"id": least}])
    assert (found.records[0].annotation_id, found.records[0].image_id) == (largest, least)


@pytest.mark.parametrize(
    ("name", "people", "images", "masks", "regions"),
    [("eval_official481.json", 1354, 481, 1354, 1958), ("train_rest1865.json", 4998, 1865, 918, 7590)],
)
def test_no_real_annotation_is_quarantined(name: str, people: int, images: int, masks: int, regions: int) -> None:
    coco = read_coco(shared_data("coco_val2017_person_480") / "annotations" / name, COCO_17)
    found = sort_out(coco, aspect_wh=0.75)
    assert found.quarantine == []
    assert (len(found.records), len({record.image_id for record in found.records})) == (people, images)
    assert sum(record.mask_rle is not None for record in found.records) == masks
    assert sum(found.skipped.values()) == regions - people
    truth = ground_truth_json(coco, quarantine=found.quarantine)
    assert (len(truth["images"]), len(truth["annotations"])) == (images, regions)


def test_the_ground_truth_has_the_published_scores() -> None:
    folder = shared_data("coco_fakekeypoints100")
    coco = read_coco(folder / "person_keypoints_val2014_100.json", COCO_17)
    truth = ground_truth_json(coco, quarantine=sort_out(coco, aspect_wh=0.75).quarantine)
    results = json.loads((folder / "person_keypoints_val2014_fakekeypoints100_results.json").read_text())
    scores = evaluate(truth, results, skeleton=COCO_17)
    published = (0.372, 0.636, 0.348, 0.384, 0.386, 0.514)
    found = (scores.AP, scores.AP50, scores.AP75, scores.APM, scores.APL, scores.AR)
    assert tuple(round(value, 3) for value in found) == published
