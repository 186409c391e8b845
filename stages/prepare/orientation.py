"""Images with an EXIF orientation that their size does not show: annotations may be those of the turned image."""

from __future__ import annotations

from collections.abc import Mapping

from stages.findings import Finding
from stages.settings import Split

__all__ = ["turned_images"]


def turned_images(split: Split, turned: Mapping[str, int], *, of: int) -> list[Finding]:
    """One finding for the ``turned`` images (the orientation of each, by file name) among ``of`` images; none without them."""
    if not turned:
        return []
    example = min(turned)
    have = "has" if len(turned) == 1 else "have"
    seen = (
        f"{len(turned)} of {of} images of the {split} set {have} an EXIF orientation other than 1 that the size does not show, "
        f"such as {example} (orientation {turned[example]}); this tag is ignored, as in COCO"
    )
    remedy = (
        "If the annotations were made on turned images, as most viewers show them, the keypoints are in wrong places: "
        "store these images turned and without the tag"
    )
    return [Finding(kind="exif_orientation", seen=seen, remedy=remedy, count=len(turned), of=of, example=example)]
