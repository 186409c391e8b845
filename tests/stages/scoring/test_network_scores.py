"""Scores with the boxes of a detector, by hand and by pycocotools; a stub network gives the correct answer."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages import evaluate
from stages.base import Context, Step
from stages.distributed.run_tasks import Crashes
from stages.networks.spec import NetworkSpec
from stages.pose.affine import box_to_center_size
from stages.pose.skeleton import COCO_17
from stages.prepare import stage as prepare
from stages.prepare.stage import GROUND_TRUTH, INSTANCES, instances_step
from stages.scoring import network_scores as evaluation
from stages.scoring.network_scores import evaluation_step, score_network
from stages.settings import Settings
from storage_schemas.errors import DataError
from storage_schemas.formats.instances import Instances, Record, read_instances, write_instances
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Entry
from tests.support.buckets import local
from tests.support.instance_samples import IMAGE_PX, mask_rle, write_images

IMAGES = (1, 2, 3)
"""The first two have one instance each, the third has none."""
BOX = (12.0, 8.0, 30.0, 40.0)
SPEC = NetworkSpec(network="hrnet_w8_small")
NETWORK = Step("teachers", "teachers", "some network", {})


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_process(function: Callable[[Any], Any], jobs: Sequence[tuple[Any, int]], **_: object) -> Iterator[tuple[Any, Any]]:
        return ((job, function(job)) for job, _size in jobs)

    monkeypatch.setattr(prepare, "run_tasks", in_process)


def truth_K3() -> npt.NDArray[np.float32]:
    joint = np.arange(17)
    return np.stack([14 + 6 * (joint % 4), 10 + 8 * (joint // 4), np.full(17, 2)], axis=-1).astype(np.float32)


def ground_truth() -> dict[str, Any]:
    annotations = [
        {
            "id": 100 + image_id,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": list(BOX),
            "area": 900.0,
            "keypoints": truth_K3().ravel().tolist(),
            "num_keypoints": 17,
        }
        for image_id in (1, 2)
    ]
    images = [{"id": image_id, "file_name": f"{image_id}.png", "width": IMAGE_PX, "height": IMAGE_PX} for image_id in IMAGES]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def table(root: LocalPath, image_ids: Sequence[int]) -> Instances:
    """The instances as ``prepare`` writes them, the first with a mask."""
    facts = write_images(root, image_ids)
    (center_2,), (size_2,) = box_to_center_size(np.array([BOX]), aspect_wh=1.0)
    masks = {1: mask_rle(np.ones((IMAGE_PX, IMAGE_PX), np.bool_)), 2: None}
    records = [
        Record(
            annotation_id=100 + image_id,
            image_id=image_id,
            file_name=f"{image_id}.png",
            width=IMAGE_PX,
            height=IMAGE_PX,
            box_4=np.array(BOX),
            center_2=center_2,
            size_2=size_2,
            area=900.0,
            keypoints_K3=truth_K3(),
            mask_rle=mask,
        )
        for image_id, mask in masks.items()
    ]
    return Instances.from_records(records, facts, COCO_17)


def box(image_id: int, score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": list(BOX), "score": score}


def prepared(tmp_path: LocalPath, boxes: Path | None = None, *, image_ids: Sequence[int] = IMAGES) -> Context:
    """A context with a prepared validation set."""
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    (tmp_path / "annotations.json").write_text(json.dumps(ground_truth()))
    source = {"annotations": str(tmp_path / "annotations.json"), "images": str(root)}
    instances = table(root, image_ids)
    settings = Settings.model_validate(
        {
            "name": "x",
            "data": {"train": source, "val": source},
            "crop": {"size_wh": (64, 64)},
            "teachers": {"primary": {"network": "hrnet_w8_small", "train": {"epochs": 1}}},
            "distill": {"student": {"network": "hrnet_w8_small"}, "epochs": 2},
            "evaluate": {"boxes": boxes, "decoder": "quarter"},
        }
    )
    context = Context(settings, tmp_path / "home", "cpu")
    step = instances_step(context, "val")
    with context.store.draft(step.kind, step.recipe) as draft:
        if isinstance(draft, Draft):
            write_instances(local(draft.folder / INSTANCES), instances)
            local(draft.folder / GROUND_TRUTH).write_text(json.dumps(ground_truth()))
            draft.commit([INSTANCES, GROUND_TRUTH], measured={"content": "of val", "instances": 2, "images": 2})
    return context


def detections(tmp_path: LocalPath, *records: dict[str, Any]) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Instances]:
    """The instances that a stub network, which always gives the same pose, was called with."""
    asked: list[Instances] = []

    def answer(_: Context, __: NetworkSpec, table_path: Path, ___: Path, **____: object) -> dict[str, npt.NDArray[np.float32]]:
        asked.append(read_instances(table_path))
        pose_K3 = truth_K3()
        pose_K3[:, 2] = 1.0
        return dict.fromkeys(("quarter", "dark", "centroid", "soft_argmax"), np.stack([pose_K3] * len(asked[-1].id_N)))

    monkeypatch.setattr(evaluation, "predict", answer)
    return asked


def by_pycocotools(results: Path) -> list[float]:
    truth = COCO()
    truth.dataset = ground_truth()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        scoring = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    found: list[float] = scoring.stats.tolist()
    return found


def score(context: Context, boxes: Path | None) -> Entry:
    return score_network(context, SPEC, context.content(NETWORK), "student", stage="evaluate", boxes=boxes)


def test_a_detection_on_an_image_without_instances_lowers_the_ap(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(3, 0.9), box(2, 0.7))
    entry = score(prepared(tmp_path, boxes), boxes)
    # Best first: wrong, right, right. Precision 0, 1/2, 2/3; at every recall the best from there on is 2/3.
    assert entry.measured["quarter"]["AP"] == pytest.approx(2 / 3)
    assert entry.measured["quarter"]["AP"] == pytest.approx(by_pycocotools(entry.path("results-quarter.json"))[0], abs=1e-12)
    assert (entry.measured["instances"], entry.measured["images"]) == (3, 3)
    assert seen[0].image_id_M[seen[0].image_N].tolist() == [1, 3, 2]
    assert all(len(sha256) == 64 for sha256 in seen[0].sha256_M), "the loader needs the hash of each image"


def test_without_that_detection_every_instance_is_found(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(2, 0.7))
    entry = score(prepared(tmp_path, boxes), boxes)
    assert entry.measured["quarter"]["AP"] == pytest.approx(1.0)
    assert by_pycocotools(entry.path("results-quarter.json"))[0] == pytest.approx(1.0)
    assert len(seen) == 1


def test_a_wrong_box_with_the_lowest_score_changes_nothing(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(2, 0.7), box(3, 0.6))
    entry = score(prepared(tmp_path, boxes), boxes)
    assert entry.measured["quarter"]["AP"] == pytest.approx(1.0)
    assert by_pycocotools(entry.path("results-quarter.json"))[0] == pytest.approx(1.0)
    assert len(seen[0].id_N) == 3


def test_a_broken_box_costs_only_itself_and_is_a_warning_of_the_entry(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(1, -0.9), box(2, 0.7))
    entry = score(prepared(tmp_path, boxes), boxes)
    assert entry.measured["quarter"]["AP"] == pytest.approx(1.0)
    assert [(warning["kind"], warning["count"], warning["of"]) for warning in entry.measured["warnings"]] == [
        ("boxes_left_out", 1, 3)
    ]
    assert len(seen[0].id_N) == 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "file: No such file or directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "decode: a truncated PNG"),
    ],
)
def test_an_image_that_has_only_detections_is_decoded_completely(
    damage: Callable[[LocalPath], object], reason: str, tmp_path: LocalPath, seen: list[Instances]
) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(3, 0.9))
    context = prepared(tmp_path, boxes)
    damage(tmp_path / "images" / "3.png")
    with pytest.raises(DataError, match=rf"image 3 \('3\.png'\): {reason}"):
        score(context, boxes)
    assert not seen


def test_an_image_that_crashes_the_processes_that_decode_it_is_named(
    tmp_path: LocalPath, seen: list[Instances], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashing(
        _: Callable[[Any], Any], jobs: Sequence[tuple[Any, int]], *, on_crash: Crashes[Any, Any], **__: object
    ) -> Iterator[tuple[Any, Any]]:
        for job, _size in jobs:
            assert on_crash.pieces(job) == []
            yield job, on_crash.blame(job)

    monkeypatch.setattr(prepare, "run_tasks", crashing)
    boxes = detections(tmp_path, box(1, 0.8), box(3, 0.9))
    with pytest.raises(DataError, match=r"image 3 \('3\.png'\): decode: each process that read this image"):
        score(prepared(tmp_path, boxes), boxes)
    assert not seen


def test_a_missing_image_with_only_detections_is_named(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(3, 0.9))
    context = prepared(tmp_path, boxes, image_ids=(1, 2))
    with pytest.raises(DataError, match=r"image 3 \('3\.png'\)"):
        score(context, boxes)
    assert not seen


def test_teachers_are_scored_on_annotated_boxes_even_with_a_detections_file(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(3, 0.9))
    with_boxes, without = prepared(tmp_path, boxes), prepared(tmp_path)
    steps = [evaluation_step(context, NETWORK, "teacher", stage="teachers") for context in (with_boxes, without)]
    assert steps[0].recipe["protocol"]["boxes"] is None
    assert steps[0].key == steps[1].key
    entry = score(with_boxes, None)
    assert entry.key == steps[0].key
    assert entry.measured["quarter"]["AP"] == pytest.approx(1.0)
    assert seen[0].has_mask_N.tolist() == [True, False]


def test_students_are_scored_on_detected_boxes_and_held_out_instances_on_annotated_ones(tmp_path: LocalPath) -> None:
    boxes = detections(tmp_path, box(1, 0.8))
    context = prepared(tmp_path, boxes)
    val = evaluation_step(context, NETWORK, "student", stage="evaluate")
    holdout = evaluation_step(context, NETWORK, "student", stage="evaluate", subset="holdout")
    assert (val.boxes, holdout.boxes) == (boxes, None)
    assert holdout.recipe["protocol"]["boxes"] is None
    detections(tmp_path, box(1, 0.81))
    assert evaluation_step(context, NETWORK, "student", stage="evaluate").key != val.key


def test_the_step_finds_its_entry(tmp_path: LocalPath, seen: list[Instances]) -> None:
    boxes = detections(tmp_path, box(1, 0.8))
    context = prepared(tmp_path, boxes)
    step = evaluation_step(context, NETWORK, "student", stage="evaluate")
    assert score(context, boxes).key == step.key
    assert score(context, boxes).key == step.key
    assert len(seen) == 1, "the second time it is found"


def test_another_image_without_annotations_changes_the_key(tmp_path: LocalPath) -> None:
    boxes = detections(tmp_path, box(1, 0.8), box(3, 0.9))
    before = evaluation_step(prepared(tmp_path, boxes), NETWORK, "student", stage="evaluate")
    (tmp_path / "images" / "more.png").write_bytes(b"changes the folder")
    after = evaluation_step(prepared(tmp_path, boxes), NETWORK, "student", stage="evaluate")
    assert after.recipe["instances"] == before.recipe["instances"]
    assert after.key != before.key


@pytest.mark.parametrize(("name", "why"), [("folder", "is not a file"), ("nothing.json", "is missing")])
def test_boxes_without_a_file_are_refused_early(tmp_path: LocalPath, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=rf"{name} \(evaluate.boxes\) {why}"):
        evaluation_step(prepared(tmp_path, tmp_path / name), NETWORK, "student", stage="evaluate")


def test_the_protocol_says_which_rows_have_detected_boxes(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "scores_of", lambda *_: {"instances": 3, "images": 3})
    boxes = detections(tmp_path, box(1, 0.8))
    text = evaluate.protocol(prepared(tmp_path, boxes))
    assert text.startswith(
        "boxes of the student and baseline from boxes.json, ground-truth boxes for teachers and cached targets, "
    )
    assert text.endswith("2 instances on 3 images, 3 detected boxes")
    plain = evaluate.protocol(prepared(tmp_path))
    assert plain.startswith("ground-truth boxes, exact flip test")
    assert plain.endswith("2 instances on 2 images")
