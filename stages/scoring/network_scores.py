"""Scoring one network on people it has not seen: an entry with its predictions, COCO results and AP by every decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stages.base import Context, ScoresStep, Step, Subset
from stages.data.detections import check_pictures, read_detections
from stages.data.images import DECODER_VERSION
from stages.data.windows import Pictures
from stages.distributed.predict import DECODERS, predict
from stages.networks.spec import NetworkSpec
from stages.prepare import GROUND_TRUTH, INSTANCES, images_of, instances_step, pictures_of
from stages.progress import progress
from stages.scoring.person_scores import score_poses
from stages.settings import Split
from storage_schemas.errors import DataError
from storage_schemas.formats.instances import ImageFacts, Instances, read_instances, write_instances
from storage_schemas.formats.predictions import coco_results, write_predictions, write_results
from storage_schemas.paths.local import sha256_known
from storage_schemas.store.store import Entry

__all__ = ["backend_of", "evaluation_step", "is_on_ground_truth", "read_ground_truth", "score_network"]

PREDICTIONS = "predictions.parquet"
_ON_GROUND_TRUTH = "ground truth"
"""What a recipe says of boxes that are the annotated ones; else it holds the hash of the detections file."""

_ALLOWED_BOXES = "an existing COCO detections file"
_VERSION = 1
_PRECISION: Literal["float32"] = "float32"
"""Scores are figures to compare, and scoring is short: it is exact on every device."""


def evaluation_step(
    context: Context,
    network: Step,
    who: str,
    *,
    stage: Literal["teachers", "evaluate"],
    subset: Subset = "val",
    divisor: int = 1,
    withhold_mask: bool = False,
) -> ScoresStep:
    """The scores of the network that the step ``network`` leaves; ``who`` names it for people.

    Teachers are scored on ground-truth boxes whatever ``evaluate.boxes`` says: only people who are annotated have a mask.
    """
    people = instances_step(context, "val" if subset == "val" else "train")
    boxes = context.settings.evaluate.boxes if stage == "evaluate" and subset == "val" else None
    recipe = _recipe(context, context.content(network), subset, boxes, divisor=divisor, withhold_mask=withhold_mask)
    title = f"AP of the {who} on {'the validation set' if subset == 'val' else 'held-out training people'}"
    return ScoresStep(
        stage=stage,
        title=title,
        recipe=recipe,
        waits_for=context.waits(people, network),
        who=who,
        network=network,
        subset=subset,
        boxes=boxes,
        divisor=divisor,
        withhold_mask=withhold_mask,
    )


def backend_of(spec_suffix: str, context: Context) -> str:
    """What computes a network's output: part of keys, since backends differ in the last digits."""
    return f"{'onnxruntime' if spec_suffix == '.onnx' else 'torch'}-{context.device}"


def is_on_ground_truth(entry: Entry) -> bool:
    """Whether an entry of scores was made with the annotated boxes, and not with those of a detector."""
    return bool(entry.manifest.recipe["boxes"] == _ON_GROUND_TRUTH)


def _recipe(
    context: Context, content: str, subset: Subset, boxes: Path | None, *, divisor: int, withhold_mask: bool
) -> dict[str, Any]:
    settings = context.settings.evaluate
    people = instances_step(context, "val" if subset == "val" else "train")
    # The table of people knows only the pictures that somebody is annotated on, and a detector finds people on others.
    pictures = {} if boxes is None else {"pictures": people.recipe["source"]}
    return {
        "network": content,
        "people": context.content(people),
        "subset": subset,
        "boxes": _ON_GROUND_TRUTH if boxes is None else _hash_of(boxes),
        **pictures,
        "crop": {"size_wh": list(context.settings.crop.size_wh), "divisor": divisor},
        "evaluate": {
            "flip": settings.flip,
            "min_keypoint_score": settings.min_keypoint_score,
            "nms_threshold": settings.nms_threshold,
        },
        "mask": "withheld" if withhold_mask else "as the network takes it",
        "precision": _PRECISION,
        "decoder": DECODER_VERSION,
        "version": _VERSION,
    }


def _hash_of(boxes: Path) -> str:
    try:
        if boxes.exists() and not boxes.is_file():
            raise DataError(f"The detections file {boxes} (evaluate.boxes) is not a file", allowed=_ALLOWED_BOXES)
        return sha256_known(boxes)
    except FileNotFoundError as error:
        raise DataError(f"The detections file {boxes} (evaluate.boxes) is not there", allowed=_ALLOWED_BOXES) from error
    except OSError as error:
        seen = f"The detections file {boxes} (evaluate.boxes) cannot be read: {error.strerror}"
        raise DataError(seen, allowed=_ALLOWED_BOXES) from error


def score_network(
    context: Context,
    spec: NetworkSpec,
    content: str,
    who: str,
    *,
    stage: Literal["teachers", "evaluate"],
    subset: Subset = "val",
    boxes: Path | None = None,
    divisor: int = 1,
    withhold_mask: bool = False,
) -> Entry:
    """Predict with the network of ``spec``, whose content is ``content``, score by every decoder, and commit the entry.

    ``boxes`` is a detections file; without it, people are where they are annotated. ``stage`` is the one that asks: nothing
    else in the entry says whether the network is a teacher.
    """
    recipe = _recipe(context, content, subset, boxes, divisor=divisor, withhold_mask=withhold_mask)
    with context.store.draft("evaluations", recipe, tell=context.tell) as draft:
        if isinstance(draft, Entry):
            return draft
        people, box_score_N = _people(context, subset, boxes)
        write_instances(draft.work / INSTANCES, people)
        predicted = predict(
            context,
            spec,
            draft.file(INSTANCES),
            _pictures(context, subset, boxes),
            divisor=divisor,
            flip=context.settings.evaluate.flip,
            withhold_mask=withhold_mask,
            precision=_PRECISION,
            title=f"evaluate: {who}",
        )
        measured, files = _scored(context, draft.work, subset, people, box_score_N, predicted)
        return draft.commit(files, measured=measured, made={"device": context.device, "stage": stage})


def _people(context: Context, subset: Subset, boxes: Path | None) -> tuple[Instances, npt.NDArray[np.float64]]:
    """Who is predicted, and the scores of their boxes."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    table = read_instances(entry.path(INSTANCES))
    if subset == "holdout":
        table = table.select(table.holdout_N)
    return (table, np.ones(len(table.id_N))) if boxes is None else _detected(context, boxes, table)


def _pictures(context: Context, subset: Subset, boxes: Path | None) -> Pictures:
    split: Split = "val" if subset == "val" else "train"
    # Crops are stored for those who are annotated: a detection may have the number of one of them, and be elsewhere.
    return pictures_of(context, split) if boxes is None else Pictures(images_of(context, split))


def _detected(context: Context, boxes: Path, table: Instances) -> tuple[Instances, npt.NDArray[np.float64]]:
    """Everybody that was detected on an image of the ground truth; ``table`` knows the pictures that were looked at before."""
    width, height = context.settings.crop.size_wh
    images = read_ground_truth(context, "val")["images"]
    records, score_N = read_detections(boxes, images, aspect_wh=width / height)
    known = zip(table.image_id_M.tolist(), table.sha256_M, table.bytes_M.tolist(), strict=True)
    facts = {image_id: ImageFacts(sha256, size) for image_id, sha256, size in known}
    # What ``prepare`` has not looked at, since nobody is annotated there, is looked at as it would have been.
    new_ids = {record.image_id for record in records} - set(facts)
    new = [image for image in images if image["id"] in new_ids]
    if new:
        with progress("evaluate: pictures that only detections are on", len(new), "images") as bar:
            facts |= check_pictures(images_of(context, "val"), new, progress=bar.advance)
    return Instances.from_records(records, facts), score_N


def read_ground_truth(context: Context, subset: Subset) -> dict[str, Any]:
    """The COCO ground truth of a subset, as a dict."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    truth: dict[str, Any] = json.loads(entry.path(GROUND_TRUTH).read_bytes())
    return truth


def _scored(
    context: Context,
    work: Path,
    subset: Subset,
    people: Instances,
    box_score_N: npt.NDArray[np.float64],
    predicted: dict[Any, npt.NDArray[np.float32]],
) -> tuple[dict[str, Any], Sequence[str]]:
    """What is measured of predictions by every decoder, and the names of the files in ``work`` that hold them."""
    truth = read_ground_truth(context, subset)
    image_ids = None if subset == "val" else [int(people.image_id_M[image]) for image in np.unique(people.image_N)]
    image_id_N = people.image_id_M[people.image_N]
    measured: dict[str, Any] = {"people": len(people.id_N)}
    columns: dict[str, list[Any]] = {name: [] for name in ("instance_id", "image_id", "decoder", "score", "kept")}
    for decoder in DECODERS:
        keypoints = predicted[decoder]
        scores, score_N, kept_N = score_poses(
            truth, people, box_score_N, keypoints, context.settings.evaluate, image_ids=image_ids
        )
        measured[decoder] = scores
        results = coco_results(image_id_N[kept_N], score_N[kept_N], keypoints[kept_N])
        write_results(work / f"results-{decoder}.json", results)
        columns["instance_id"] += people.id_N.tolist()
        columns["image_id"] += image_id_N.tolist()
        columns["decoder"] += [decoder] * len(score_N)
        columns["score"] += score_N.tolist()
        columns["kept"] += kept_N.tolist()
    measured["images"] = measured["quarter"]["num_images"]
    stacked = np.concatenate([predicted[decoder] for decoder in DECODERS])
    write_predictions(work / PREDICTIONS, columns, stacked)
    return measured, [PREDICTIONS, *(f"results-{decoder}.json" for decoder in DECODERS)]
