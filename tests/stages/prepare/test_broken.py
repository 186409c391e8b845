"""Each kind of fault is said once, and what is proposed helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.data.coco import FaultKind, Quarantined, read_coco, sort_out
from stages.pose.skeleton import COCO_17
from stages.prepare.broken import advice_on_boxes, advice_on_faults, reasons
from tests.support.coco_samples import IMAGE_WH, document
from tests.support.plausible_samples import box, people


def broken(number: int, kind: FaultKind, detail: str) -> Quarantined:
    return Quarantined(100 + number, number, f"{number}.jpg", kind, detail)


def test_equal_faults_are_one_line_with_their_count_and_the_first_example() -> None:
    missing = [broken(number, "image", "file: No such file or directory") for number in range(3)]
    areas = [broken(7, "area", "-1 is not a finite number from 0"), Quarantined(None, 8, "", "size", "no size")]
    assert reasons([*areas, *missing], "/data/images") == [
        "3 x image: file: No such file or directory (such as annotation 100, /data/images/0.jpg)",
        "1 x area: -1 is not a finite number from 0 (annotation 107, image 7)",
        "1 x size: no size (image 8)",
    ]


def test_faults_that_differ_only_in_their_values_are_one_line() -> None:
    boxes = [broken(number, "bbox", f"[{number}, -1, 'x', nan] is not four finite numbers") for number in range(4)]
    names = [broken(9, "file_name", "not a name: 'a'"), broken(8, "file_name", "not a name: 7")]
    assert reasons([*names, *boxes], "/x") == [
        "4 x bbox: [0, -1, 'x', nan] is not four finite numbers (such as annotation 100, image 0)",
        "2 x file_name: not a name: 'a' (such as annotation 109, image 9)",
    ]


def test_the_most_frequent_of_many_faults_are_shown_and_the_others_counted() -> None:
    many = [broken(number, "bbox", f"fault {letter}") for number, letter in enumerate("abcdefgh")]
    assert len(reasons(many, "/x")) == 6
    assert reasons(many, "/x")[-1] == "3 x other reasons"


def test_the_advice_is_about_the_kinds_that_were_found() -> None:
    found = advice_on_faults([broken(1, "area", "x"), broken(2, "num_keypoints", "y"), broken(3, "num_keypoints", "z")])
    first, second = found.split("; ")
    assert first.startswith("remove num_keypoints or compute it again")
    assert second.startswith("write area")


@pytest.mark.parametrize("whole", [1, 100])
def test_boxes_in_other_units_are_named_as_such_and_the_step_helps(tmp_path: Path, whole: int) -> None:
    width, height = IMAGE_WH
    every = people(40, box(lambda x, y, w, h: [whole * x / width, whole * y / height, whole * w / width, whole * h / height]))
    # People with a senseless box, or without a joint, say nothing about the form.
    every[0]["bbox"], every[1]["keypoints"], every[2]["keypoints"] = [1e300] * 4, "none", [0] * 51

    def advice() -> tuple[int, str | None]:
        (tmp_path / "a.json").write_text(json.dumps(document(every)))
        coco = read_coco(tmp_path / "a.json", COCO_17)
        quarantine = sort_out(coco, aspect_wh=0.75).quarantine
        return len(quarantine), advice_on_boxes(coco, quarantine, aspect_wh=0.75)

    count, step = advice()
    assert count >= 39
    unit = "fractions" if whole == 1 else "percent"
    assert step == (
        "write bbox as x, y, width, height in pixels of the image: the boxes are probably x, y, width, height, "
        f"in {unit} of the image's width and height"
    )
    for person in every[1:]:
        x, y, w, h = person["bbox"]
        person["bbox"] = [x * width / whole, y * height / whole, w * width / whole, h * height / whole]
    # Only the three that are broken in another way are left, and nothing is said about boxes.
    assert advice() == (3, None)


def test_boxes_of_areas_that_are_wrong_are_in_no_other_form(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document(people(5, lambda person: person.update(area=1e9)))))
    coco = read_coco(tmp_path / "a.json", COCO_17)
    quarantine = sort_out(coco, aspect_wh=0.75).quarantine
    assert {item.kind for item in quarantine} == {"area"}
    assert advice_on_boxes(coco, quarantine, aspect_wh=0.75) is None
