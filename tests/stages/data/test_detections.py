from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.data.detections import check_images, read_detections
from stages.pose.skeleton import COCO_17
from storage_schemas.errors import DataError
from storage_schemas.paths.local import LocalPath
from tests.support.instance_samples import IMAGE_PX, write_images


def image(image_id: int) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "width": IMAGE_PX, "height": IMAGE_PX}


def box(image_id: object, score: float = 0.5, **changes: object) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": [8.0, 4.0, 30.0, 40.0], "score": score, **changes}


def detections(tmp_path: LocalPath, records: object) -> Path:
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(records))
    return path


def test_detections_on_images_without_annotations_are_included(tmp_path: LocalPath) -> None:
    people, score_N = read_detections(
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
    people, _ = read_detections(detections(tmp_path, records), [image(1)], aspect_wh=0.75, skeleton=COCO_17)
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


def test_images_are_decoded_completely_and_counted(tmp_path: LocalPath) -> None:
    expected = write_images(tmp_path, [3, 5])
    looked = []
    assert check_images(tmp_path, [image(5), image(3)], progress=lambda: looked.append(1)) == expected
    assert len(looked) == 2


def test_an_error_names_unusable_images_by_file_and_id(tmp_path: LocalPath) -> None:
    write_images(tmp_path, [1, 2])
    broken = tmp_path / "2.png"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"image 7 \('7\.png'\): file: No such file or directory \(and 1 more\)"):
        check_images(tmp_path, [image(1), image(7), image(2)])
    with pytest.raises(DataError, match=r"image 2 \('2\.png'\): decode: a truncated PNG"):
        check_images(tmp_path, [image(1), image(2)])
