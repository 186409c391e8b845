"""Each kind of fault is said once, and what is proposed helps."""

from __future__ import annotations

from stages.data.coco import FaultKind, Quarantined
from stages.prepare.broken import advice_on_faults, reasons


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
