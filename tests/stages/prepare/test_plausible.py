"""A data set in another form than COCO's is noticed as a whole, and clean data gives no finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stages.data.synthetic.dataset import SyntheticSpec, draw_dataset
from storage_schemas.errors import DataError
from tests.support.coco_samples import IMAGE_WH, Json, standing
from tests.support.errors import suggested
from tests.support.plausible_samples import box, findings, found, joints, people, rectangle
from tests.support.shared_data import shared_data

WIDTH, HEIGHT = IMAGE_WH


# --- clean data


@pytest.mark.parametrize("count", [1, 2, 3, 60, 150])
def test_people_in_their_boxes_give_no_finding(tmp_path: Path, count: int) -> None:
    assert found(tmp_path, people(count)) == []


@pytest.mark.parametrize("name", ["train_rest1865.json", "eval_official481.json"])
def test_the_photographs_give_no_finding(name: str) -> None:
    assert findings(shared_data("coco_val2017_person_480") / "annotations" / name) == []


@pytest.mark.parametrize("name", ["coco/test_coco.json", "ochuman/test_ochuman.json"])
def test_the_samples_of_public_data_sets_give_no_finding(name: str) -> None:
    assert findings(shared_data("samples") / name) == []


def test_the_embedded_data_set_gives_no_finding(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", SyntheticSpec(train_images=10, val_images=1, seed=3))
    assert findings(tmp_path / "drawn" / "annotations" / "train.json") == []


def test_broken_annotations_are_not_looked_at(tmp_path: Path) -> None:
    broken = [
        standing(1, id=201, bbox=...),
        standing(2, id=202, keypoints="none"),
        standing(3, id=203, iscrowd=1, keypoints=...),
    ]
    assert found(tmp_path, [*people(3), *broken]) == []


def test_a_set_without_usable_people_gives_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, [standing(1, iscrowd=1)]) == []


# --- joints outside of their boxes


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (joints(lambda x, y, _: (x / WIDTH, y / HEIGHT)), "fractions of the image's width and height"),
        (joints(lambda x, y, box: ((x - box[0]) / box[2], (y - box[1]) / box[3])), "fractions of the box"),
    ],
)
def test_people_without_a_joint_in_their_box_fail_with_the_form_that_fits(
    tmp_path: Path, change: Callable[[Json], None], form: str
) -> None:
    with pytest.raises(DataError) as caught:
        found(tmp_path, people(3, change))
    assert "3 of 3 people of the train set have no labelled joint in their box, such as annotation 101" in caught.value.seen
    assert f"probably {form};" in suggested(caught.value)


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (joints(lambda x, y, _: (100 * x / WIDTH, 100 * y / HEIGHT)), "joints are probably percent of the image's"),
        (joints(lambda x, y, _: (y, x)), "joints are probably y before x"),
        (joints(lambda x, y, box: (x - box[0], y - box[1])), "joints are probably distances from the corner"),
        (box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "boxes are probably centre, width and height"),
        (joints(lambda x, y, _: (x * 0.5, y * 0.5)), "Draw the joints and the box"),
    ],
)
def test_many_joints_outside_of_their_boxes_are_a_finding_with_the_form_that_fits(
    tmp_path: Path, change: Callable[[Json], None], form: str
) -> None:
    (finding,) = [finding for finding in found(tmp_path, people(40, change)) if finding.kind == "joints_outside"]
    assert 0.05 * 680 < finding.count <= finding.of == 680
    assert form in finding.remedy
    assert "people have none in it, such as annotation 1" in finding.seen


def test_one_person_alone_is_a_finding_and_no_error(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, people(1, joints(lambda x, y, _: (x / WIDTH, y / HEIGHT))))
    assert (finding.kind, finding.count, finding.of) == ("joints_outside", 17, 17)


@pytest.mark.parametrize("place", [0, -1])
def test_joints_at_one_place_with_a_label_are_named(tmp_path: Path, place: int) -> None:
    def change(person: Json) -> None:
        person["keypoints"][:6] = [place, place, 1] * 2

    (finding,) = found(tmp_path, people(20, change))
    # Two of 17 joints of each person; no box reaches the corner of the image.
    assert (finding.kind, finding.count, finding.of) == ("joints_outside", 40, 340)
    assert f"at ({place}, {place}): write v = 0" in finding.remedy


def test_one_person_of_many_with_joints_elsewhere_is_no_finding(tmp_path: Path) -> None:
    every = people(150)
    joints(lambda x, y, _: (x / WIDTH, y / HEIGHT))(every[7])
    assert found(tmp_path, every) == []
    joints(lambda x, y, _: (x / WIDTH, y / HEIGHT))(every[8])
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count) == ("joints_outside", 34)


# --- boxes


def test_boxes_that_are_corners_are_a_finding(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, people(40, box(lambda x, y, w, h: [x, y, x + w, y + h])))
    beyond = [person["bbox"] for person in people(40)]
    expected = sum(2 * x + w > WIDTH + 2 or 2 * y + h > HEIGHT + 2 for x, y, w, h in beyond)
    assert (finding.kind, finding.count, finding.of) == ("boxes_beyond_image", expected, 40)
    assert "The boxes are probably two corners (x1, y1, x2, y2)" in finding.remedy


def test_boxes_that_reach_out_of_their_images_are_counted(tmp_path: Path) -> None:
    every = people(50)
    every[3]["bbox"][2] = WIDTH - every[3]["bbox"][0] + 1.9
    assert found(tmp_path, every) == []
    every[4]["bbox"][3] = HEIGHT - every[4]["bbox"][1] + 2.1
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of, finding.example) == ("boxes_beyond_image", 1, 50, "000005.jpg")
    assert finding.remedy == "odkd clips them"


# --- areas


@pytest.mark.parametrize("area", [lambda w, h: 0.6 * w * h / (WIDTH * HEIGHT), lambda w, h: 1.0, lambda w, h: 0.09 * w * h])
def test_areas_that_are_no_pixels_are_a_finding(tmp_path: Path, area: Callable[[float, float], float]) -> None:
    every = people(20, lambda person: person.update(area=area(*person["bbox"][2:])))
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.of) == ("tiny_areas", 20)
    assert finding.count >= 10
    assert "The median area of the 20 people of the train set is " in finding.seen
    # Both steps help.
    for share in (0.2, 1.0):
        for person in every:
            person["area"] = share * person["bbox"][2] * person["bbox"][3]
        assert found(tmp_path, every) == []


def test_a_few_tiny_areas_are_no_finding(tmp_path: Path) -> None:
    every = people(20)
    for person in every[:9]:
        person["area"] = 1
    assert found(tmp_path, every) == []


# --- masks


def test_masks_that_are_boxes_are_a_finding(tmp_path: Path) -> None:
    every = people(260, lambda person: person.update(segmentation=rectangle(*person["bbox"])))
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of) == ("masks_are_boxes", 260, 260)
    for person, good in zip(every[:130], people(130), strict=True):
        person["segmentation"] = good["segmentation"]
    assert found(tmp_path, every) == []


def test_masks_of_another_place_are_a_finding(tmp_path: Path) -> None:
    def change(person: Json) -> None:
        (outline,) = person["segmentation"]
        person["segmentation"] = [[value / 10 for value in outline]]

    every = people(60)
    right = [person for person in every if person["bbox"][0] > WIDTH / 3]
    change(right[0])
    assert found(tmp_path, every) == []
    change(right[1])
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of) == ("masks_elsewhere", 2, 60)
    assert f"such as that of annotation {right[0]['id']} in " in finding.seen


def test_stray_outlines_are_counted(tmp_path: Path) -> None:
    every = people(3)
    every[0]["segmentation"].append([160.0, 120.0])
    every[2]["segmentation"] += [[], [1, 1, 2, 2], [3, 3], [5.0] * 7, None, [9e5, 0, 9e5, 9, 0, 0]]
    every.append(standing(4, segmentation=[[5, 5]], iscrowd=1))
    (finding,) = found(tmp_path, every)
    assert (finding.kind, finding.count, finding.of) == ("stray_outlines", 2, 3)
    assert "2 of 3 people of the train set have outlines that are left out (6 in all), such as annotation 101" in finding.seen
    assert finding.seen.endswith("in 000001.jpg: a polygon is not a list of at least three points")
    assert found(tmp_path, people(3, lambda person: person.update(segmentation=[[]]))) == []
