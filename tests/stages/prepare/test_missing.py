"""What is proposed for missing images leads to exactly these images; where several files may be meant, they are listed."""

from __future__ import annotations

import re
from collections.abc import Collection

import pytest

from stages.prepare.missing import advice_on_missing

FOLDER, SETTING = "/d/images", "data.val.images"


def advice(missing: Collection[str], present: Collection[str], named: Collection[str] = ()) -> str:
    return advice_on_missing(missing, present, named=named, folder=FOLDER, setting=SETTING)


def done(step: str, name: str) -> str:
    """The path of an image after the step that is proposed."""
    if set_to := re.match(rf"set {SETTING} to (\S+?)[:,]", step):
        return f"{set_to[1].rstrip('/')}/{name}"
    if removed := re.match(r"remove (\S+) from each file_name", step):
        return f"{FOLDER}/{name.removeprefix(removed[1])}"
    written = re.search(rf": {re.escape(name)} is there as (\S+)$", step)
    assert written, step
    return f"{FOLDER}/{written[1]}"


@pytest.mark.parametrize(
    ("missing", "present", "expected"),
    [
        # The folder itself begins each name, once or twice.
        (["images/1.jpg", "images/2.jpg"], ["1.jpg", "2.jpg", "3.jpg"], "set data.val.images to /d: "),
        (["d/images/1.jpg"], ["1.jpg"], "set data.val.images to /: each"),
        (["images/a/1.jpg", "images/b/2.jpg"], ["a/1.jpg", "b/2.jpg"], "set data.val.images to /d: "),
        # Another folder begins each name.
        (["val2017/1.jpg"], ["1.jpg"], "remove val2017/ from each file_name"),
        # The images are in a folder below; another folder has some of these names, or a text file.
        (["1.jpg", "2.jpg"], ["val/1.jpg", "val/2.jpg"], "set data.val.images to /d/images/val, which"),
        (["1.jpg"], ["deep/val/1.jpg"], "set data.val.images to /d/images/deep/val, which"),
        (["1.jpg", "2.jpg"], ["old/1.jpg", "val/1.jpg", "val/2.jpg"], "set data.val.images to /d/images/val, which"),
        # The names are written in another way.
        (["a.JPG"], ["a.jpg"], "write each file_name with the capital letters of the file: a.JPG is there as a.jpg"),
        (["a.jpg"], ["a.png", "a.txt"], "write each file_name with the suffix of the file: a.jpg is there as a.png"),
        (["a.jpg"], ["a.PNG"], "write each file_name with the suffix of the file: a.jpg is there as a.PNG"),
        (["C:\\data\\1.jpg"], ["1.jpg"], "write each file_name relative to the image folder: "),
        (["x/1.jpg", "y/2.jpg"], ["1.jpg", "2.jpg"], "write each file_name relative to .*: x/1.jpg is there as 1.jpg"),
        (["1.jpg", "2.jpg"], ["val/1.jpg", "train/2.jpg"], "write each file_name relative to .*: 1.jpg is there as val/1.jpg"),
    ],
)
def test_the_only_way_to_missing_images_is_proposed_and_leads_to_them(
    missing: list[str], present: list[str], expected: str
) -> None:
    step = advice(missing, present)
    assert re.match(expected, step)
    first = min(missing)
    # The only .jpg or .png file that has the name of the first image, and as many folders as the expected step says.
    assert done(step, first) in {f"{FOLDER}/{name}" for name in present if not name.endswith(".txt")}
    if "is there as" not in step:
        assert {done(step, name) for name in missing} <= {f"{FOLDER}/{name}" for name in present}


@pytest.mark.parametrize(
    ("missing", "present", "files"),
    [
        (["1.jpg", "2.jpg"], ["train/1.jpg", "train/2.jpg", "val/1.jpg", "val/2.jpg"], ["train/1.jpg", "val/1.jpg"]),
        (["1.jpg", "2.jpg"], ["a/1.jpg", "b/2.jpg", "c/2.jpg"], ["b/2.jpg", "c/2.jpg"]),
        (["a.jpg"], ["a.jpeg", "a.png"], ["a.jpeg", "a.png"]),
        (["a.jpg"], ["A.jpg", "a.JPG"], ["A.jpg", "a.JPG"]),
        (["x/y/1.jpg"], ["1.jpg", "y/1.jpg"], ["1.jpg", "y/1.jpg"]),
        (["a.JPG"], ["a.jpg", "val/a.JPG"], ["a.jpg", "val/a.JPG"]),
    ],
)
def test_several_files_that_may_be_meant_are_listed_and_none_is_proposed(
    missing: list[str], present: list[str], files: list[str]
) -> None:
    for order in (present, present[::-1]):
        assert re.match(
            rf"find out which file \S+ is, since /d/images has {', '.join(files)}; then set", advice(missing, order)
        )


@pytest.mark.parametrize(
    ("missing", "present", "expected"),
    [
        (["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"], "restore the image files, or remove .* has 2 files, such as 3.jpg"),
        (["images/1.jpg", "images/9.jpg"], ["1.jpg"], "restore the image files"),
        # The same name in a folder beside it is another image; so is one file for two images.
        (["train/1.jpg"], ["val/1.jpg"], "restore the image files"),
        (["x/1.jpg", "y/1.jpg"], ["1.jpg"], "restore the image files"),
        (["a.JPG", "a.jpeg"], ["a.jpg"], "restore the image files"),
        # Labels of another tool are no images.
        (["a/0001.jpg"], ["a/0001.txt", "a/0002.jpg"], "restore the image files"),
        (["a/0001.jpg"], ["a/0001.txt"], "/d/images has no .jpg, .jpeg or .png files: set data.val.images"),
        (["1.jpg"], [], "/d/images has no files: set data.val.images"),
    ],
)
def test_nothing_is_proposed_that_leads_to_other_images(missing: list[str], present: list[str], expected: str) -> None:
    assert re.match(expected, advice(missing, present))


def test_with_some_images_in_the_folder_no_other_folder_and_none_of_these_images_is_proposed() -> None:
    present = ["3.jpg", "val/1.jpg"]
    assert advice(["1.jpg"], present).startswith("set data.val.images to /d/images/val")
    assert advice(["1.jpg"], present, named=["3.jpg"]) == (
        "write each file_name relative to the image folder: 1.jpg is there as val/1.jpg"
    )
    assert advice(["images/1.jpg"], ["1.jpg", "3.jpg"], named=["3.jpg"]).startswith("remove images/ from each file_name")
    assert advice(["A.jpg"], ["a.jpg"], named=["a.jpg"]).startswith("restore the image files")
