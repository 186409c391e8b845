from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data.detections import read_detections, require_usable
from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.instance_samples import IMAGE_PX
from tests.support.shared_data import shared_data


def image(image_id: int) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "width": IMAGE_PX, "height": IMAGE_PX}


def box(image_id: object, score: float = 0.5, **changes: object) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": [8.0, 4.0, 30.0, 40.0], "score": score, **changes}


def detections(tmp_path: LocalPath, records: object) -> Path:
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(records))
    return path


def test_detections_on_images_without_annotations_are_included(tmp_path: LocalPath) -> None:
    people, score_N, _ = read_detections(
        detections(tmp_path, [box(2, 0.9), box(1, 0.3)]), [image(1), image(2), image(3)], aspect_wh=0.75, skeleton=COCO_17
    )
    assert [(person.annotation_id, person.image_id, person.file_name) for person in people] == [
        (0, 2, "2.png"),
        (1, 1, "1.png"),
    ]
    assert score_N.tolist() == [0.9, 0.3]
    # The middle of the box; three quarters as wide as high, padded by a quarter (HRNet, lib/dataset/coco.py).
    assert people[0].center_2.tolist() == [23.0, 24.0]
    assert people[0].size_2 == pytest.approx([37.5, 50.0])
    assert people[0].area == 1200.0
    assert people[0].mask_rle is None


def test_other_categories_and_images_are_skipped_with_a_warning_for_images(
    tmp_path: LocalPath, caplog: pytest.LogCaptureFixture
) -> None:
    records = [box(1), box(1, category_id=2), box(9), box([1])]
    people, _, _ = read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75, skeleton=COCO_17)
    assert [person.annotation_id for person in people] == [0]
    assert "2 of 3 boxes" in caplog.text


def test_boxes_on_no_image_are_refused(tmp_path: LocalPath) -> None:
    with pytest.raises(DataError, match="no person on any of the 1 images"):
        read_detections(detections(tmp_path, [box(9)]), [image(1)], aspect_wh=0.75, skeleton=COCO_17)


@pytest.mark.parametrize("change", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"score": "high"}, {"score": [0.5, 0.5]}])
def test_a_malformed_box_is_refused(tmp_path: LocalPath, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="malformed record"):
        read_detections(detections(tmp_path, [box(1) | change]), [image(1)], aspect_wh=0.75, skeleton=COCO_17)


@pytest.mark.parametrize("change", [{"bbox": [1.0, 2.0, 0.0, 5.0]}, {"bbox": [1.0, float("nan"), 3.0, 5.0]}])
def test_an_empty_box_or_one_that_is_not_finite_is_refused(tmp_path: LocalPath, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="empty or not finite"):
        read_detections(detections(tmp_path, [box(1), box(1) | change]), [image(1)], aspect_wh=0.75, skeleton=COCO_17)


@pytest.mark.parametrize("records", [{"annotations": []}, [1]])
def test_another_kind_of_file_is_refused(tmp_path: LocalPath, records: object) -> None:
    with pytest.raises(DataError, match="not a list of records"):
        read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75, skeleton=COCO_17)


def test_a_folder_is_refused(tmp_path: LocalPath) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_detections(tmp_path, [image(1)], aspect_wh=0.75, skeleton=COCO_17)


def test_an_error_names_unusable_images_by_file_and_id(tmp_path: LocalPath) -> None:
    boxes = detections(tmp_path, [box(1), box(7), box(7), box(2)])
    people, _, _ = read_detections(boxes, [image(1), image(7), image(2)], aspect_wh=0.75)
    good = FileFacts(1, "0" * 64)
    assert require_usable(tmp_path, people, {2: good, 7: good, 1: good}) == {1: good, 2: good, 7: good}
    with pytest.raises(DataError, match=r"image 7 \('7\.png'\): file: none \(and 1 more\)"):
        require_usable(tmp_path, people, {2: "decode: a truncated PNG", 7: "file: none", 1: good})
    with pytest.raises(DataError, match=r"image 2 \('2\.png'\): decode: a truncated PNG"):
        require_usable(tmp_path, people, {2: "decode: a truncated PNG", 7: good, 1: good})


# --- the file does not fit


def refusal(tmp_path: LocalPath, records: object, images: list[dict[str, Any]]) -> DataError:
    with pytest.raises(DataError) as caught:
        read_detections(detections(tmp_path, records), images, aspect_wh=0.75)
    return caught.value


def test_a_file_without_people_names_its_categories(tmp_path: LocalPath) -> None:
    records = [box(1, category_id=0)] * 3 + [box(2, category_id=3), box(2, category_id="person"), box(2, category_id=[1])]
    error = refusal(tmp_path, records, [image(1), image(2)])
    assert "no record of category 1 (person); its categories are 0 (3 records), 3 (1 records), 'person' (1 rec" in error.seen
    assert suggested(error) == "write category_id 1 for people"
    assert suggested(refusal(tmp_path, records[:3], [image(1)])).endswith("some tools count categories from 0")


def test_a_file_on_other_images_shows_an_id_of_each(tmp_path: LocalPath) -> None:
    assert (
        "its image ids are such as 9; the ground truth has image ids such as 1" in refusal(tmp_path, [box(9)], [image(1)]).seen
    )
    assert "its image ids are such as '1'; the" in refusal(tmp_path, [box("1")], [image(1)]).seen
    assert "its image ids are such as True; the" in refusal(tmp_path, [box(True)], [image(1)]).seen
    assert "the ground truth has no images" in refusal(tmp_path, [box(1)], []).seen


def test_an_empty_list_has_no_category(tmp_path: LocalPath) -> None:
    error = refusal(tmp_path, [], [image(1)])
    assert "none: the file is empty" in error.seen
    assert error.remedy is None


def test_ids_that_are_written_as_floats_are_whole_numbers(tmp_path: LocalPath) -> None:
    people, _, _ = read_detections(detections(tmp_path, [box(1.0, category_id=1.0)]), [image(1)], aspect_wh=0.75)
    assert [person.image_id for person in people] == [1]


# --- one broken box costs only itself


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"bbox": [1.0, 2.0, 0.0, 5.0]}, "a box that is empty or not finite"),
        ({"bbox": [1.0, 2.0, -3.0, 5.0]}, "a box that is empty or not finite"),
        ({"bbox": [1.0, float("nan"), 3.0, 5.0]}, "a box that is empty or not finite"),
        ({"bbox": [1.0, 10**400, 3.0, 5.0]}, "a box that is empty or not finite"),
        ({"bbox": [1.0, 2.0, 1e-60, 1e-60]}, "a box of less than a pixel"),
        ({"bbox": [1.0, 2.0, 1e300, 1e300]}, "a box of more than 10 times the image of 64 x 64"),
        ({"bbox": [1.0, 2.0, 5.0, 641.0]}, "a box of more than 10 times"),
        ({"bbox": [1e300, 2.0, 5.0, 5.0]}, "a box outside of the image of 64 x 64"),
        ({"bbox": [-1e300, 2.0, 5.0, 5.0]}, "a box outside of the image"),
        ({"bbox": [64.0, 2.0, 5.0, 5.0]}, "a box outside of the image"),
        ({"bbox": [1, 2, 3]}, "a malformed record"),
        ({"bbox": [1, 2, 3, "4"]}, "a malformed record"),
        ({"bbox": None}, "a malformed record"),
        ({"score": None}, "a malformed record"),
        ({"score": True}, "a malformed record"),
        ({"score": float("nan")}, "a box that is empty or not finite"),
        ({"score": 10**400}, "a box that is empty or not finite"),
        ({"score": -0.5}, "a score that is not from 0 to 100"),
        ({"score": 1e300}, "a score that is not from 0 to 100"),
    ],
)
def test_a_broken_box_is_left_out_and_counted(tmp_path: LocalPath, change: dict[str, Any], fault: str) -> None:
    records = [box(1), box(1) | change, box(1, 0.7)]
    people, score_N, findings = read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75)
    assert score_N.tolist() == [0.5, 0.7]
    assert [person.annotation_id for person in people] == [0, 1]
    assert all(np.isfinite(person.size_2).all() and np.isfinite(person.area) for person in people)
    (finding,) = findings
    assert (finding.kind, finding.count, finding.of) == ("boxes_left_out", 1, 3)
    assert finding.seen.startswith(f"1 of 3 boxes in detections.json are broken and left out; the first is {fault}")
    # As half of the boxes or more it is no accident.
    assert "1 of 2 boxes are broken; the first is " + fault in refusal(tmp_path, records[:2], [image(1)]).seen


def test_scores_in_percent_and_tiny_ones_are_kept(tmp_path: LocalPath) -> None:
    records = [box(1, score) for score in (100, 0, 1e-60, 87.5)]
    assert read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75).score_N.tolist() == [100, 0, 1e-60, 87.5]


def test_boxes_that_are_corners_are_a_finding(tmp_path: LocalPath) -> None:
    generator = np.random.default_rng(0)
    low = generator.uniform(1, 40, (30, 2))
    high = low + generator.uniform(5, 22, (30, 2))
    plain, corners = np.hstack([low, high - low]).tolist(), np.hstack([low, high]).tolist()
    assert (
        read_detections(detections(tmp_path, [box(1, bbox=item) for item in plain]), [image(1)], aspect_wh=0.75).findings == []
    )
    (finding,) = read_detections(
        detections(tmp_path, [box(1, bbox=item) for item in corners]), [image(1)], aspect_wh=0.75
    ).findings
    assert (finding.kind, finding.count) == ("boxes_beyond_image", int((low + high > 66).any(axis=1).sum()))
    assert "two corners" in finding.remedy


def test_boxes_that_are_fractions_are_refused_with_this_form(tmp_path: LocalPath) -> None:
    records = [box(1, bbox=[8 / 64, 4 / 64, 30 / 64, 40 / 64]) for _ in range(3)]
    with pytest.raises(DataError, match="3 of 3 boxes are broken; the first is a box of less than a pixel") as caught:
        read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75)
    assert suggested(caught.value).endswith("the boxes are probably fractions of the image's width and height")
    with pytest.raises(DataError) as caught:
        read_detections(detections(tmp_path, [*records, box(1)]), [image(1)], aspect_wh=0.75)
    assert caught.value.remedy is None


def test_boxes_that_are_percent_are_a_finding(tmp_path: LocalPath) -> None:
    large = image(1) | {"width": 400, "height": 300}
    records = [box(1, bbox=[number, 20.0, 15.0, 60.0]) for number in range(20)]
    (finding,) = read_detections(detections(tmp_path, records), [large], aspect_wh=0.75).findings
    assert (finding.kind, finding.count, finding.of) == ("boxes_in_percent", 20, 20)
    assert "percent of the image's width and height" in finding.remedy
    others = [records[1:], [*records, box(1, bbox=[90.0, 20.0, 101.0, 60.0])]]
    assert [read_detections(detections(tmp_path, other), [large], aspect_wh=0.75).findings for other in others] == [[], []]
    assert read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75).findings == []


def test_the_published_detections_give_no_finding() -> None:
    folder = shared_data("samples") / "coco"
    images = json.loads((folder / "test_coco.json").read_text())["images"]
    assert read_detections(folder / "test_coco_det_AP_H_56.json", images, aspect_wh=0.75).findings == []
