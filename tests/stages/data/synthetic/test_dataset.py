"""The drawn data set has the documented statistics, counted from its files, and is a valid COCO folder."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.data.synthetic.dataset import SyntheticSpec, draw_dataset
from stages.data.synthetic.scene import draw_scene
from storage_schemas.errors import DataError

# pycocotools 2.0.11 gives masks to numpy in a way that numpy 2 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Record = dict[str, Any]
SPEC = SyntheticSpec(train_images=150, val_images=60, seed=3)
# From the COCO keypoint evaluation page, in the order of the keypoints, nose to ankles.
SIGMAS_K = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "people"
    draw_dataset(folder, SPEC)
    return folder


def content(folder: Path, split: str) -> Record:
    loaded: Record = json.loads((folder / "annotations" / f"{split}.json").read_text())
    return loaded


def instances(folder: Path, split: str) -> list[Record]:
    return [record for record in content(folder, split)["annotations"] if not record["iscrowd"]]


def keypoints_of(records: list[Record]) -> NDArray[np.float64]:
    return np.array([record["keypoints"] for record in records], dtype=np.float64).reshape(-1, 17, 3)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def box_iou(a: list[int], b: list[int]) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(tall, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def average_precision(ground_truth: COCO, keypoints: NDArray[np.float64], records: list[Record]) -> float:
    results = [
        {"image_id": record["image_id"], "category_id": 1, "score": 1.0, "keypoints": keypoints_K3.ravel().tolist()}
        for record, keypoints_K3 in zip(records, keypoints, strict=True)
    ]
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        draw_dataset(tmp_path / name, SyntheticSpec(train_images=4, val_images=2, seed=seed))
    one, two, three = (bytes_of(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert len(one) == 8
    assert all(one[name] != three[name] for name in one)


def test_an_image_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "few", SyntheticSpec(train_images=1, val_images=2, seed=5))
    draw_dataset(tmp_path / "many", SyntheticSpec(train_images=5, val_images=3, seed=5))
    few, many = content(tmp_path / "few", "val"), content(tmp_path / "many", "val")
    many_records = [record for record in many["annotations"] if record["image_id"] in {1_000_001, 1_000_002}]
    assert few["annotations"] == many_records
    for image in few["images"]:
        name = f"images/{image['file_name']}"
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_images_are_listed_with_their_size_and_ids_are_unique(drawn: Path) -> None:
    images = content(drawn, "train")["images"] + content(drawn, "val")["images"]
    records = content(drawn, "train")["annotations"] + content(drawn, "val")["annotations"]
    assert {image["file_name"] for image in images} == {path.name for path in (drawn / "images").iterdir()}
    assert len({image["id"] for image in images}) == len(images) == SPEC.train_images + SPEC.val_images
    assert len({record["id"] for record in records}) == len(records)
    image = cv2.imread(str(drawn / "images" / images[0]["file_name"]))
    assert image is not None
    assert image.shape == (images[0]["height"], images[0]["width"], 3) == (192, 256, 3)


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_counts_the_area_of_each_mask_as_annotated(drawn: Path, split: str) -> None:
    dataset = COCO(str(drawn / "annotations" / f"{split}.json"))
    records = [record for record in content(drawn, split)["annotations"] if record["segmentation"]]
    for record in records:
        mask_hw = dataset.annToMask(record)
        assert int(mask_hw.sum()) == record["area"]
        x, y, width, height = record["bbox"]
        assert mask_hw[y : y + height, x : x + width].sum() >= 0.99 * record["area"]
    kinds = {(type(record["segmentation"]), record["iscrowd"]) for record in records}
    assert kinds == {(list, 0), (dict, 0), (dict, 1)}


@pytest.mark.parametrize("split", ["train", "val"])
def test_labelled_keypoints_are_in_the_image_and_the_others_are_zero(drawn: Path, split: str) -> None:
    records = content(drawn, split)["annotations"]
    keypoints = keypoints_of(records)
    labelled = keypoints[..., 2] > 0
    assert (keypoints[labelled][:, :2] >= 0).all()
    assert (keypoints[labelled][:, :2] < (256, 192)).all()
    assert (keypoints[~labelled] == 0).all()
    assert [record["num_keypoints"] for record in records] == labelled.sum(axis=1).tolist()


def test_a_visible_keypoint_is_on_its_instances_mask_and_a_hidden_one_often_not(drawn: Path) -> None:
    dataset = COCO(str(drawn / "annotations" / "val.json"))
    on_mask: dict[int, list[bool]] = {1: [], 2: []}
    for record in instances(drawn, "val"):
        mask_hw = dataset.annToMask(record)
        for x, y, visibility in np.array(record["keypoints"]).reshape(17, 3):
            if visibility:
                on_mask[int(visibility)].append(bool(mask_hw[y, x]))
    assert np.mean(on_mask[2]) >= 0.97
    assert np.mean(on_mask[1]) <= 0.75  # the rest is hidden by the own body


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_quarter_of_the_instances_overlap_another(drawn: Path, split: str) -> None:
    by_image: dict[int, list[list[int]]] = defaultdict(list)
    for record in instances(drawn, split):
        by_image[record["image_id"]].append(record["bbox"])
    overlaps = [
        max((box_iou(box, other) for other in boxes if other is not box), default=0.0)
        for boxes in by_image.values()
        for box in boxes
    ]
    assert len(overlaps) / len(by_image) > 1.8
    assert np.mean(np.array(overlaps) >= 0.3) >= 0.25


def test_validation_labels_hidden_keypoints_which_are_neither_rare_nor_the_majority(drawn: Path) -> None:
    visibility = keypoints_of(instances(drawn, "val"))[..., 2]
    assert 0.15 <= (visibility == 1).sum() / (visibility > 0).sum() <= 0.27
    assert (visibility == 0).mean() <= 0.04  # outside the image


def test_a_quarter_of_the_training_keypoints_has_no_label_and_a_seventh_of_the_instances_no_mask(drawn: Path) -> None:
    records = instances(drawn, "train")
    assert 0.21 <= (keypoints_of(records)[..., 2] == 0).mean() <= 0.29
    assert 0.10 <= np.mean([record["segmentation"] == [] for record in records]) <= 0.20
    assert all(record["segmentation"] for record in instances(drawn, "val"))


def test_training_labels_are_off_by_a_tenth_of_the_oks_scale_and_validation_labels_exact(drawn: Path) -> None:
    errors = []
    for split in ("train", "val"):
        records = instances(drawn, split)
        for image in content(drawn, split)["images"][:100]:
            rng = np.random.Generator(np.random.Philox(key=np.array([SPEC.seed, image["id"]], dtype=np.uint64)))
            truths = [truth for truth in draw_scene(rng, SPEC.image_size_wh).people if truth.mask_hw.sum() >= 80]
            labels = [record for record in records if record["image_id"] == image["id"]]
            for truth, record in zip(truths, labels, strict=True):
                keypoints_K3 = np.array(record["keypoints"]).reshape(17, 3)
                scale_K = 2 * SIGMAS_K * np.sqrt(record["area"])
                off_K2 = keypoints_K3[:, :2] - truth.joints
                labelled_K = keypoints_K3[:, 2] > 0
                if split == "val":
                    assert (off_K2[labelled_K] == 0).all()
                else:  # labels are whole pixels: only where a tenth is more than one pixel does the rounding not rule
                    errors.append((off_K2 / scale_K[:, None])[labelled_K & (scale_K > 10)])
    spread = np.concatenate(errors)
    assert len(spread) > 200
    assert 0.095 <= spread.std() <= 0.112  # rounding adds up to 1/12 px^2
    assert abs(spread.mean()) <= 0.01


def test_the_mean_pose_scores_nearly_zero_and_the_truth_scores_one(drawn: Path) -> None:
    train, val = keypoints_of(instances(drawn, "train")), instances(drawn, "val")
    boxes_N4 = np.array([record["bbox"] for record in instances(drawn, "train")], dtype=np.float64)
    labelled = train[..., 2:] > 0
    relative = (train[..., :2] - boxes_N4[:, None, :2]) / boxes_N4[:, None, 2:]
    mean_K2 = (relative * labelled).sum(axis=0) / labelled.sum(axis=0)
    val_boxes = np.array([record["bbox"] for record in val], dtype=np.float64)
    placed = mean_K2 * val_boxes[:, None, 2:] + val_boxes[:, None, :2]
    ground_truth = COCO(str(drawn / "annotations" / "val.json"))
    assert average_precision(ground_truth, keypoints_of(val), val) == pytest.approx(1.0)
    assert average_precision(ground_truth, np.concatenate([placed, np.ones((len(val), 17, 1))], axis=2), val) < 0.05


def test_instances_differ_in_size_and_face_both_ways(drawn: Path) -> None:
    records = instances(drawn, "train")
    heights = np.array([record["bbox"][3] for record in records])
    assert np.percentile(heights, 10) < 85
    assert np.percentile(heights, 90) > 135
    keypoints = keypoints_of(records)
    both = (keypoints[:, [5, 6], 2] > 0).all(axis=1)
    left_is_right_of_right = keypoints[both, 5, 0] > keypoints[both, 6, 0]
    assert 0.8 < left_is_right_of_right.mean() < 0.97  # most people face the viewer, and some turn their backs


def test_an_interrupted_drawing_leaves_no_files(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 8
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "people", SyntheticSpec(train_images=5, val_images=3, seed=0), progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_and_an_empty_spec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        draw_dataset(tmp_path, SyntheticSpec(train_images=1, val_images=1, seed=0))
    with pytest.raises(DataError, match="at least one image"):
        SyntheticSpec(train_images=0, val_images=1, seed=0)


def test_a_share_of_the_training_people_has_no_labels_and_nothing_else_differs(drawn: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "half", replace(SPEC, unlabelled=0.5))
    whole, half = instances(drawn, "train"), instances(tmp_path / "half", "train")
    without = [number for number, record in enumerate(half) if record["num_keypoints"] == 0]
    assert len(without) == pytest.approx(len(half) / 2, rel=0.2)
    for number, (one, other) in enumerate(zip(whole, half, strict=True)):
        blank = {"keypoints": [0] * 51, "num_keypoints": 0} if number in without else {}
        assert other == {**one, **blank}
    assert instances(drawn, "val") == instances(tmp_path / "half", "val")
    for path in (drawn / "images").iterdir():
        assert (tmp_path / "half" / "images" / path.name).read_bytes() == path.read_bytes()
