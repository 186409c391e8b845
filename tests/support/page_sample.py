"""A small page of a report with made-up findings, for tests of the report."""

from __future__ import annotations

import numpy as np

from stages.findings import Finding
from stages.pose.skeleton import COCO_17
from stages.report.page.content import (
    AP_COLUMNS,
    CacheRow,
    Cost,
    Curve,
    DecoderRow,
    Difference,
    EntryRow,
    JointRow,
    Page,
    Phase,
    Scored,
    ShownInstance,
    SplitRow,
    TargetRow,
    Tile,
    Who,
)
from stages.scoring.bootstrap import PairedBootstrap

__all__ = ["make_page"]

SERIES: dict[str, Who] = {"student": "student", "baseline": "baseline", "PT": "primary", "ST": "senior"}


def scored(who: Who, name: str, ap: float, *, headline: bool = True) -> Scored:
    scores = {column: ap + 0.01 * index for index, column in enumerate(AP_COLUMNS)} | {"APM": -1.0}
    return Scored(who, name, scores, "centroid", headline=headline, cost=Cost(1_234_567, 2**30, 12.34, (96, 128)))


def bootstrap(difference: float, half_width: float) -> PairedBootstrap:
    low, high = difference - half_width, difference + half_width
    return PairedBootstrap(0.6, 0.6 + difference, difference, low, high, share_not_better=0.1, num_images=200)


def instance(name: str) -> ShownInstance:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    captions = ("ground truth", "PT bits", "ST bits", "mask", "student", "baseline")
    return ShownInstance(f"{name} in image.jpg", "OKS 0.812", [Tile(caption, image) for caption in captions])


def make_page() -> Page:
    """A page with something in every section."""
    joints = [
        JointRow(name, 100 + index, dict.fromkeys(SERIES, 0.5 + 0.02 * index)) for index, name in enumerate(COCO_17.keypoints)
    ]
    cache = CacheRow("primary", "primary teacher (PT)", 4, 1500, 2_000_000, 500_000, 333.25, 26112, 0.753, 7500, 0)
    return Page(
        name="demo",
        made_at="2025-01-02 03:04 UTC",
        warnings=[
            Finding(
                kind="exif_orientation",
                seen="3 of 1400 images of the train set are turned by an EXIF tag, such as 17.jpg",
                remedy="Store them turned, without the tag",
                count=3,
                of=1400,
                example="17.jpg",
            )
        ],
        protocol="ground-truth boxes, flip test with a shift of 1 px, decoder centroid",
        decoder_reason="best on held-out instances",
        machine="cpu, 2 threads",
        rows=[
            scored("student", "Student, taught by PT and ST", 0.6432),
            scored("baseline", "Baseline: the student without teachers", 0.61),
            scored("primary", "Primary teacher (PT)", 0.70),
            scored("senior", "Senior teacher (ST), with the mask", 0.73),
            scored("primary", "Cached targets of PT", 0.69, headline=False),
        ],
        decoders=[DecoderRow("student", "student", {"quarter": 0.641, "dark": 0.652, "centroid": 0.633})],
        targets=[TargetRow("primary", "PT", 0.694, 0.681, 0.699)],
        differences=[
            Difference("senior", "primary teacher", "senior teacher", bootstrap(0.03, 0.01)),
            Difference("student", "baseline", "student", bootstrap(0.004, 0.02)),
        ],
        phases=[Phase(1, 3, "PT", "primary"), Phase(4, 6, "ST", "senior")],
        curves=[Curve("student", "student", [1, 2, 3, 4, 5, 6], [0.04, 0.03, 0.02, 0.018, 0.015, 0.014])],
        teacher_curves=[Curve("primary", "primary teacher", [1, 2, 3], [0.02, 0.01, 0.005])],
        skeleton=COCO_17,
        overlays=[instance("Instance 17")],
        worst=[instance("Instance 23")],
        joints=joints,
        joint_series=SERIES,
        cache=[cache],
        views_bytes=123_456,
        splits=[SplitRow("train", 1500, 900, 1400, 70, {"box": 2}, {"crowd": 11}), SplitRow("val", 300, 200, 280, 0, {}, {})],
        entries=[EntryRow("student", "students", "0123456789abcdef", 4_200_000, "2025-01-02 03:00:00 UTC", 61.5, "cpu, node")],
        settings_yaml="name: demo\n",
        versions={"torch": "2.13.0"},
        command="python -m pipeline.run --stage report --force",
        seconds={"prepare": 3.2, "teachers": 130.0},
    )
