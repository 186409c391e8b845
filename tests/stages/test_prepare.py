"""Stage prepare on a real Ray: broken records are set aside with their reason, and too many fail the stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray
from buckets import local

from stages.context import Context
from stages.prepare import INSTANCES, QUARANTINE, instances_step, make, steps
from stages.settings import (
    DataSettings,
    PrepareSettings,
    Settings,
    SplitSource,
    TeacherSource,
    TeachersSettings,
    TrainSettings,
)
from storage_schemas.errors import DataError
from storage_schemas.instances import read_instances

pytestmark = pytest.mark.slow

_NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
          "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
          "right_ankle"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


def _person(number: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 (a record holds what a broken file may hold)
    person = {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [8.0, 8.0, 40.0, 48.0],
        "area": 1000.0,
        "num_keypoints": 17,
        "keypoints": [20.0, 30.0, 2] * 17,
        "segmentation": [[8.0, 8.0, 48.0, 8.0, 48.0, 56.0, 8.0, 56.0]],
    }
    return {**person, **changes}


def _folder(root: Path, people: list[dict[str, Any]], files: dict[int, bytes | None]) -> SplitSource:
    """A COCO folder with a 64 x 64 picture a person; ``files`` replaces the bytes of some, or leaves them out."""
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for person in people:
        number = person["image_id"]
        good = cv2.imencode(".jpg", generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
        data = files.get(number, good)
        if data is not None:
            (root / "images" / f"{number}.jpg").write_bytes(good[: len(good) // 2] if data == b"truncate" else data)
    document = {
        "images": [
            {"id": person["image_id"], "file_name": f"{person['image_id']}.jpg", "width": 64, "height": 64} for person in people
        ],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": _NAMES, "skeleton": []}],
    }
    (root / "annotations.json").write_text(json.dumps(document))
    return SplitSource(annotations=root / "annotations.json", images=root / "images")


def _context(tmp_path: Path, train: SplitSource, val: SplitSource, max_bad_fraction: float) -> Context:
    primary = TeacherSource(network="hrnet_w8_small", train=TrainSettings(epochs=1))
    settings = Settings(
        name="x",
        data=DataSettings(train=train, val=val),
        prepare=PrepareSettings(max_bad_fraction=max_bad_fraction),
        teachers=TeachersSettings(primary=primary),
    )
    return Context(settings, tmp_path / "home", "cpu")


def _sources(tmp_path: Path) -> tuple[SplitSource, SplitSource]:
    people = [_person(number) for number in range(1, 9)]
    people[3] = _person(4, area=-1.0)
    people[4] = _person(5, keypoints=[1.0] * 50)
    train = _folder(tmp_path / "train", people, {1: b"truncate", 2: None, 3: b"no picture"})
    return train, _folder(tmp_path / "val", [_person(9)], {})


def test_broken_records_are_set_aside_with_id_and_reason(tmp_path: Path) -> None:
    context = _context(tmp_path, *_sources(tmp_path), 0.7)
    make(context, steps(context))
    entry = context.need(instances_step(context, "train"))
    assert read_instances(entry.path(INSTANCES)).id_N.tolist() == [6, 7, 8]
    lines = [json.loads(line) for line in entry.path(QUARANTINE).read_text().splitlines()]
    reasons = {line["annotation_id"]: line["reason"] for line in lines}
    assert set(reasons) == {1, 2, 3, 4, 5}
    assert all(reasons[number].startswith("image: ") for number in (1, 2, 3))
    assert "area" in reasons[4]
    assert "keypoints" in reasons[5]
    assert sum(entry.measured["quarantined"].values()) == 5


def test_too_many_broken_records_fail_the_stage_and_are_listed(tmp_path: Path) -> None:
    context = _context(tmp_path, *_sources(tmp_path), 0.001)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    assert "5 of 8 records of the train set are broken" in caught.value.seen
    assert "0.10%" in caught.value.allowed
    listed = context.run_dir / "quarantine.train.jsonl"
    assert str(listed) in caught.value.seen
    assert len(local(listed).read_text().splitlines()) == 5
    assert context.find(instances_step(context, "train")) is None, "nothing is committed"


def test_a_changed_picture_makes_the_table_anew_and_equal_content_keeps_what_follows(tmp_path: Path) -> None:
    train, val = _sources(tmp_path)
    context = _context(tmp_path, train, val, 0.7)
    make(context, steps(context))
    before = instances_step(context, "val")
    # A file that no annotation names changes the listing, but not what the table says.
    (local(val.images) / "other.txt").write_text("x")
    again = _context(tmp_path, train, val, 0.7)
    after = instances_step(again, "val")
    assert after.key != before.key
    assert again.find(after) is None
    make(again, [after])
    assert again.content(after) == context.content(before)
