"""Stage prepare on a real Ray: broken records are quarantined with their reason, and too many fail the stage."""

from __future__ import annotations

import json
import struct
from typing import Any

import cv2
import numpy as np
import pytest

from stages.base import Context
from stages.data.loader import CropLoader
from stages.data.views import draw_views
from stages.data.windows import ImageSource, Windows
from stages.findings import findings_in
from stages.prepare import stage as prepare
from stages.prepare.stage import GROUND_TRUTH, INSTANCES, QUARANTINE, image_source_of, instances_step, make, steps
from stages.settings import (
    AugmentSettings,
    DataSettings,
    PrepareSettings,
    Settings,
    SplitSource,
    TeacherSource,
    TeachersSettings,
    TrainSettings,
)
from storage_schemas.errors import CorruptEntryError, DataError, MissingInputError
from storage_schemas.formats.instances import read_instances
from storage_schemas.formats.windows import WINDOWS_INDEX
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.image_samples import app, chunk, exif, frame_control, jpeg, png_noise, with_chunks, with_segment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]

_NAMES = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
          "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
          "right_ankle"]  # fmt: skip


def _record(number: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 (a record holds what a broken file may hold)
    record = {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [8.0, 8.0, 40.0, 48.0],
        "area": 1000.0,
        "num_keypoints": 17,
        "keypoints": [value for joint in range(17) for value in (20.0, 14.0 + 2 * joint, 2)],
        "segmentation": [[8.0, 8.0, 48.0, 8.0, 48.0, 56.0, 28.0, 50.0, 8.0, 56.0]],
    }
    return {**record, **changes}


def _folder(root: LocalPath, records: list[dict[str, Any]], files: dict[int, bytes | None]) -> SplitSource:
    """A COCO folder with one 64 x 64 image for each instance; ``files`` replaces the bytes of some, or removes the file."""
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for record in records:
        number = record["image_id"]
        good = cv2.imencode(".jpg", generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))[1].tobytes()
        data = files.get(number, good)
        if data is not None:
            (root / "images" / f"{number}.jpg").write_bytes(good[: len(good) // 2] if data == b"truncate" else data)
    document = {
        "images": [
            {"id": record["image_id"], "file_name": f"{record['image_id']}.jpg", "width": 64, "height": 64}
            for record in records
        ],
        "annotations": records,
        "categories": [{"id": 1, "name": "person", "keypoints": _NAMES, "skeleton": []}],
    }
    (root / "annotations.json").write_text(json.dumps(document))
    return SplitSource(annotations=root / "annotations.json", images=root / "images")


def _context(
    tmp_path: LocalPath, train: SplitSource, val: SplitSource, max_bad_fraction: float, *, crops: bool = False
) -> Context:
    primary = TeacherSource(network="hrnet_w8_small", train=TrainSettings(epochs=1))
    settings = Settings(
        name="x",
        data=DataSettings(train=train, val=val),
        prepare=PrepareSettings(max_bad_fraction=max_bad_fraction, crops=crops),
        teachers=TeachersSettings(primary=primary),
    )
    return Context(settings, tmp_path / "home", "cpu")


def _sources(tmp_path: LocalPath) -> tuple[SplitSource, SplitSource]:
    records = [_record(number) for number in range(1, 9)]
    records[3] = _record(4, area=-1.0)
    records[4] = _record(5, keypoints=[1.0] * 50)
    train = _folder(tmp_path / "train", records, {1: b"truncate", 2: None, 3: b"no image"})
    return train, _folder(tmp_path / "val", [_record(9)], {})


def test_broken_records_are_quarantined_with_id_and_reason(tmp_path: LocalPath) -> None:
    context = _context(tmp_path, *_sources(tmp_path), 0.7)
    make(context, steps(context))
    entry = context.need(instances_step(context, "train"))
    assert read_instances(entry.path(INSTANCES)).id_N.tolist() == [6, 7, 8]
    lines = [json.loads(line) for line in entry.path(QUARANTINE).read_text().splitlines()]
    kinds = {line["annotation_id"]: line["kind"] for line in lines}
    assert kinds == {1: "image", 2: "image", 3: "image", 4: "area", 5: "keypoints"}
    assert all(line["reason"].startswith(f"{line['kind']}: ") for line in lines)
    assert entry.measured["quarantined"] == {"image": 3, "area": 1, "keypoints": 1}


def test_too_many_broken_records_fail_the_stage_and_are_listed(tmp_path: LocalPath) -> None:
    context = _context(tmp_path, *_sources(tmp_path), 0.001)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    assert "5 of 8 records of the train set are broken" in caught.value.seen
    assert "0.10%" in caught.value.allowed
    listed = context.run_dir / "quarantine.train.jsonl"
    assert str(listed) in caught.value.seen
    assert len(local(listed).read_text().splitlines()) == 5
    assert context.find(instances_step(context, "train")) is None, "nothing is committed"


def _renamed(source: SplitSource, name: str) -> SplitSource:
    """The same set, whose images have other names in the annotation file; ``name`` may use {name}."""
    document = json.loads(local(source.annotations).read_text())
    for image in document["images"]:
        image["file_name"] = name.format(name=image["file_name"])
    local(source.annotations).write_text(json.dumps(document))
    return source


def test_images_with_the_folder_in_their_names_fail_with_a_step_that_helps(tmp_path: LocalPath) -> None:
    records = [_record(number) for number in range(1, 5)]
    train = _renamed(_folder(tmp_path / "train", records, {}), "images/{name}")
    val = _folder(tmp_path / "val", [_record(9)], {})
    context = _context(tmp_path, train, val, 0.05)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    looked_for = tmp_path / "train" / "images" / "images" / "1.jpg"
    assert f"4 x image: file: No such file or directory (such as annotation 1, {looked_for})" in caught.value.seen
    proposed = suggested(caught.value).partition("set data.train.images to ")[2].partition(": ")[0]
    assert proposed == str(tmp_path / "train")
    mended = _context(tmp_path, SplitSource(annotations=train.annotations, images=LocalPath(proposed)), val, 0.05)
    make(mended, steps(mended))
    assert mended.need(instances_step(mended, "train")).measured["instances"] == 4


def test_a_fault_of_all_records_is_said_once_and_no_limit_is_proposed(tmp_path: LocalPath) -> None:
    records = [_record(number, keypoints=[20.0, 30.0, 2] * 16 + [0, 0, 0]) for number in range(1, 5)]
    val = _folder(tmp_path / "val", [_record(9)], {})
    context = _context(tmp_path, _folder(tmp_path / "train", records, {}), val, 0.05)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    assert caught.value.seen.splitlines()[1:] == [
        "    4 x num_keypoints: 17, but 16 keypoints have v > 0 (such as annotation 1, image 1)"
    ]
    assert suggested(caught.value).startswith("remove num_keypoints or compute it again")
    assert "max_bad_fraction" not in suggested(caught.value)
    # The step that is proposed helps.
    mended = [{name: value for name, value in record.items() if name != "num_keypoints"} for record in records]
    again = _context(tmp_path, _folder(tmp_path / "mended", mended, {}), val, 0.05)
    make(again, steps(again))
    assert again.need(instances_step(again, "train")).measured["quarantined"] == {}


def test_a_larger_limit_is_proposed_where_it_helps(tmp_path: LocalPath) -> None:
    records = [_record(number, **({"area": -1.0} if number == 7 else {})) for number in range(1, 31)]
    sources = _folder(tmp_path / "train", records, {}), _folder(tmp_path / "val", [_record(99)], {})
    context = _context(tmp_path, *sources, 0.001)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    limit = suggested(caught.value).partition("prepare.max_bad_fraction=")[2]
    again = _context(tmp_path, *sources, float(limit))
    make(again, steps(again))
    assert again.need(instances_step(again, "train")).measured["instances"] == 29


def test_a_set_with_nothing_to_teach_says_what_was_skipped(tmp_path: LocalPath) -> None:
    unlabelled = _record(1, keypoints=[0] * 51, num_keypoints=0)
    sources = _folder(tmp_path / "train", [unlabelled, _record(2, iscrowd=1)], {}), _folder(tmp_path / "val", [_record(9)], {})
    context = _context(tmp_path, *sources, 0.001)
    with pytest.raises(DataError) as caught:
        make(context, steps(context))
    assert "no usable instance: its 2 annotations are skipped (1 x no labelled joint, 1 x crowd)" in caught.value.seen


def test_findings_are_in_the_manifest(tmp_path: LocalPath) -> None:
    corners = [_record(number, bbox=[8.0, 8.0, 56.0, 60.0]) for number in range(1, 4)]
    context = _context(tmp_path, _folder(tmp_path / "train", corners, {}), _folder(tmp_path / "val", [_record(9)], {}), 0.001)
    make(context, steps(context))
    train, val = (context.need(step).measured for step in steps(context))
    assert [(warning["kind"], warning["count"]) for warning in train["warnings"]] == [("boxes_beyond_image", 3)]
    assert "warnings" not in val


def test_a_changed_image_rebuilds_the_table_and_equal_content_keeps_later_entries(tmp_path: LocalPath) -> None:
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


def test_harmless_flaws_cost_no_image_and_turned_images_are_a_finding(tmp_path: LocalPath) -> None:
    frames = [frame_control(0, 64, 64), chunk(b"fdAT", b"")]
    animation = with_chunks(png_noise(64, 64), before=[chunk(b"acTL", struct.pack(">II", 2, 0))], after=frames)
    turned = {number: with_segment(jpeg(64, 64), app(1, b"Exif\0\0" + exif(number))) for number in (1, 3, 6)}
    of_a_phone = jpeg(64, 64).replace(b"\x03\x11\x00\x3f\x00", b"\x03\x11\x00\x00\x00")
    assert of_a_phone != jpeg(64, 64)
    train = _folder(tmp_path / "train", [_record(number) for number in range(1, 7)], {2: of_a_phone, 4: animation, **turned})
    root = local(train.images)
    (root / "unused.jpg").symlink_to(root / "gone.jpg")
    (root / "loop").symlink_to(root / "loop")
    context = _context(tmp_path, train, _folder(tmp_path / "val", [_record(9)], {}), 0.0)
    make(context, steps(context))
    entry = context.need(instances_step(context, "train"))
    assert read_instances(entry.path(INSTANCES)).id_N.tolist() == [1, 2, 3, 4, 5, 6]
    (finding,) = findings_in(entry.measured)
    assert (finding.kind, finding.count, finding.of, finding.example) == ("exif_orientation", 2, 6, "3.jpg")
    assert findings_in(context.need(instances_step(context, "val")).measured) == []


# Windows


def _small(number: int) -> dict[str, Any]:
    return _record(number, bbox=[24.0, 24.0, 6.0, 8.0], area=40.0)


def _small_instances(tmp_path: LocalPath) -> tuple[SplitSource, SplitSource]:
    """Six instances, the last in a truncated image; the first two fill their images, and so have no window."""
    train = [_record(1), _record(2), *(_small(number) for number in range(3, 7))]
    return _folder(tmp_path / "train", train, {6: b"truncate"}), _folder(tmp_path / "val", [_small(9)], {})


def test_windows_are_files_of_the_tables_entry_and_part_of_its_content(tmp_path: LocalPath) -> None:
    sources = _small_instances(tmp_path)
    whole, cropped = _context(tmp_path, *sources, 0.7), _context(tmp_path, *sources, 0.7, crops=True)
    for context in (whole, cropped):
        make(context, steps(context))
    step = instances_step(cropped, "train")
    assert "crops" not in instances_step(whole, "train").recipe
    assert step.recipe["crops"]["jpeg"] == [95, "444"]
    entry = cropped.need(step)
    assert set(entry.manifest.files) == {INSTANCES, QUARANTINE, GROUND_TRUTH, WINDOWS_INDEX, "windows-00000-000.jpegs"}
    assert entry.measured["crops"] == 3
    assert entry.content != whole.content(instances_step(whole, "train"))
    instances = read_instances(entry.path(INSTANCES))
    assert instances.id_N.tolist() == [1, 2, 3, 4, 5]
    assert image_source_of(whole, "train") == ImageSource(sources[0].images)
    images = image_source_of(cropped, "train")
    windows = Windows(entry.fetch(), instances)
    assert (windows.window_N4[:, 2] > 0).tolist() == [False, False, True, True, True]
    # The crops are the same after the images of all instances with a window are deleted.
    for number in (3, 4, 5):
        (sources[0].images / f"{number}.jpg").unlink()
    loader = CropLoader(instances, images, size_wh=(48, 64), threads=1)
    view = draw_views(instances, 0, seed=0, augment=AugmentSettings(), size_wh=(48, 64))
    ((batch,),) = loader.batches([np.array([0, 2, 4])], [view])
    loader.close()
    windows.close()
    assert all(image.std() > 5 for image in batch.image_Bhw3)


def test_rebuilt_windows_have_the_same_content_with_other_tasks(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = _small_instances(tmp_path)
    entries = []
    for home, size in (("one", 256), ("two", 2)):
        monkeypatch.setattr(prepare, "_TASK_IMAGES", size)
        context = _context(tmp_path / home, *sources, 0.7, crops=True)
        make(context, steps(context))
        entries.append(context.need(instances_step(context, "train")))
    assert [len(entry.manifest.files) for entry in entries] == [5, 6]
    assert entries[0].content == entries[1].content


@pytest.mark.parametrize("damage", ["bit", "gone"])
def test_a_damaged_shard_of_windows_fails_the_check_of_the_manifest(tmp_path: LocalPath, damage: str) -> None:
    context = _context(tmp_path, *_small_instances(tmp_path), 0.7, crops=True)
    make(context, steps(context))
    entry = context.need(instances_step(context, "train"))
    shard = entry.path("windows-00000-000.jpegs")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink() if damage == "gone" else shard.write_bytes(data)
    with pytest.raises(CorruptEntryError, match=r"windows-00000-000\.jpegs (is missing|does not match its sha256)") as caught:
        entry.check()
    assert "--stage prepare --force" in suggested(caught.value)


def test_missing_windows_suggest_stage_prepare(tmp_path: LocalPath) -> None:
    with pytest.raises(MissingInputError, match="train instances"):
        image_source_of(_context(tmp_path, *_small_instances(tmp_path), 0.7, crops=True), "train")
