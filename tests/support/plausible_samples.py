"""Sets of people that stand, changes to all of them, and the findings about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from stages.data.coco import read_coco, sort_out
from stages.findings import Finding
from stages.pose.skeleton import COCO_17
from stages.prepare.plausible import implausible
from tests.support.coco_samples import Json, document, standing

__all__ = ["box", "findings", "found", "joints", "people", "rectangle"]


def findings(path: Path) -> list[Finding]:
    coco = read_coco(path, COCO_17)
    return implausible(coco, sort_out(coco, aspect_wh=0.75).records, split="train", aspect_wh=0.75)


def found(folder: Path, people: list[Json]) -> list[Finding]:
    (folder / "a.json").write_text(json.dumps(document(people)))
    return findings(folder / "a.json")


def people(count: int, change: Callable[[Json], None] = lambda person: None) -> list[Json]:
    """People of whom each is changed."""
    every = [standing(number) for number in range(1, count + 1)]
    for person in every:
        change(person)
    return every


def joints(write: Callable[[float, float, list[float]], tuple[float, float]]) -> Callable[[Json], None]:
    """A change that writes each joint in another form; it gets x, y and the box."""

    def change(person: Json) -> None:
        flat = person["keypoints"]
        points = [(*write(flat[at], flat[at + 1], person["bbox"]), flat[at + 2]) for at in range(0, len(flat), 3)]
        person["keypoints"] = [value for point in points for value in point]

    return change


def box(write: Callable[[float, float, float, float], list[float]]) -> Callable[[Json], None]:
    """A change that writes each box in another form."""
    return lambda person: person.update(bbox=write(*person["bbox"]))


def rectangle(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
