"""The finding about images that viewers turn."""

from __future__ import annotations

from stages.findings import findings_in, measured_findings
from stages.prepare.orientation import turned_images


def test_the_finding_counts_the_images_and_names_the_first_one_by_name() -> None:
    (finding,) = turned_images("train", {"b.jpg": 3, "a.jpg": 2, "c.png": 8}, of=40)
    assert (finding.kind, finding.count, finding.of, finding.example) == ("exif_orientation", 3, 40, "a.jpg")
    assert finding.seen.startswith("3 of 40 images of the train set have an EXIF orientation other than 1")
    assert "such as a.jpg (orientation 2); this tag is ignored" in finding.seen
    assert "store these images turned and without the tag" in finding.remedy
    assert findings_in(measured_findings([finding])) == [finding]


def test_one_image_has_an_orientation() -> None:
    (finding,) = turned_images("val", {"a.jpg": 3}, of=5)
    assert finding.seen.startswith("1 of 5 images of the val set has an EXIF orientation")


def test_without_turned_images_there_is_no_finding() -> None:
    assert turned_images("val", {}, of=5) == []
    assert turned_images("val", {}, of=0) == []
