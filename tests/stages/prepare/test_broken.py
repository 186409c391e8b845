"""Each kind of fault is said once, and what is proposed helps."""

from __future__ import annotations

import re

import pytest

from stages.data.coco import FaultKind, Quarantined
from stages.prepare.broken import advice_on_faults, advice_on_missing, reasons


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


@pytest.mark.parametrize(
    ("missing", "present", "advice"),
    [
        # The folder itself begins each name, once or twice.
        (["images/1.jpg", "images/2.jpg"], ["1.jpg", "2.jpg", "3.jpg"], "set data.val.images to /d: "),
        (["d/images/1.jpg"], ["1.jpg"], "set data.val.images to /: each"),
        (["images/a/1.jpg", "images/b/2.jpg"], ["a/1.jpg", "b/2.jpg"], "set data.val.images to /d: "),
        # Another folder begins each name.
        (["val2017/1.jpg"], ["1.jpg"], "remove val2017/ from each file_name"),
        # The images are in a folder below.
        (["1.jpg", "2.jpg"], ["val/1.jpg", "val/2.jpg"], "set data.val.images to /d/images/val, which"),
        (["1.jpg"], ["deep/val/1.jpg"], "set data.val.images to /d/images/deep/val, which"),
        # The names are written in another way.
        (["a.JPG"], ["a.jpg"], "write each file_name with the capital letters of the file: a.JPG is there as a.jpg"),
        (["a.jpg"], ["a.png"], "write each file_name with the suffix of the file: a.jpg is there as a.png"),
        (["C:\\data\\1.jpg"], ["1.jpg"], "write each file_name relative to the image folder: "),
        (["1.jpg", "2.jpg"], ["val/1.jpg", "train/2.jpg"], "write each file_name relative to .*: 1.jpg is there as val/1.jpg"),
        # Nothing explains all of them.
        (["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"], "restore the image files, or remove .* has 2 files, such as 3.jpg"),
        (["images/1.jpg", "images/9.jpg"], ["1.jpg"], "restore the image files"),
        (["1.jpg"], [], "/d/images has no files: set data.val.images"),
    ],
)
def test_missing_images_that_are_elsewhere_are_found(missing: list[str], present: list[str], advice: str) -> None:
    assert re.match(advice, advice_on_missing(missing, present, folder="/d/images", setting="data.val.images"))
