"""Scoring one network on people it has not seen: an entry with its predictions, COCO results and AP by every decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stages.context import Context, Step
from stages.data.detections import read_detections
from stages.data.images import DECODER_VERSION
from stages.networks.teacher import NetworkSpec
from stages.predict import DECODERS, predict
from stages.prepare import GROUND_TRUTH, INSTANCES, images_of, instances_step
from stages.scoring import score_poses
from storage_schemas.atomic import sha256_known
from storage_schemas.entry import Draft, Entry
from storage_schemas.errors import DataError
from storage_schemas.instances import Instances, read_instances, write_instances
from storage_schemas.predictions import coco_results, write_predictions, write_results

__all__ = ["Subset", "backend_of", "evaluation_step", "read_ground_truth", "score_network"]

Subset = Literal["val", "holdout"]
"""``holdout``: the training people that no network trains on."""

PREDICTIONS = "predictions.parquet"
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
) -> Step:
    """The scores of the network that the step ``network`` leaves; ``who`` names it for people."""
    people = instances_step(context, "val" if subset == "val" else "train")
    recipe = _recipe(context, context.content(network), subset, divisor=divisor, withhold_mask=withhold_mask)
    about = {"who": who, "network": network, "subset": subset, "divisor": divisor, "withhold_mask": withhold_mask}
    title = f"AP of the {who} on {'the validation set' if subset == 'val' else 'held-out training people'}"
    return Step(stage, "evaluations", title, recipe, context.waits(people, network), about)


def backend_of(spec_suffix: str, context: Context) -> str:
    """What computes a network's output: part of keys, since backends differ in the last digits."""
    return f"{'onnxruntime' if spec_suffix == '.onnx' else 'torch'}-{context.device}"


def _recipe(context: Context, content: str, subset: Subset, *, divisor: int, withhold_mask: bool) -> dict[str, Any]:
    settings = context.settings.evaluate
    boxes = settings.boxes if subset == "val" else None
    if boxes is not None and not boxes.is_file():
        raise DataError(
            f"The detections file {boxes} (evaluate.boxes) is not there", allowed="an existing COCO detections file"
        )
    return {
        "network": content,
        "people": context.content(instances_step(context, "val" if subset == "val" else "train")),
        "subset": subset,
        "boxes": "ground truth" if boxes is None else sha256_known(boxes),
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


def score_network(
    context: Context,
    spec: NetworkSpec,
    content: str,
    who: str,
    *,
    subset: Subset = "val",
    divisor: int = 1,
    withhold_mask: bool = False,
) -> Entry:
    """Predict with the network of ``spec``, whose content is ``content``, score by every decoder, and commit the entry."""
    recipe = _recipe(context, content, subset, divisor=divisor, withhold_mask=withhold_mask)
    with context.store.draft("evaluations", recipe, tell=context.tell) as draft:
        if isinstance(draft, Entry):
            return draft
        people, box_score_N = _people(context, subset)
        write_instances(draft.folder / INSTANCES, people)
        predicted = predict(
            context,
            spec,
            draft.folder / INSTANCES,
            images_of(context, "val" if subset == "val" else "train"),
            divisor=divisor,
            flip=context.settings.evaluate.flip,
            withhold_mask=withhold_mask,
            precision=_PRECISION,
            title=f"evaluate: {who}",
        )
        return _commit(context, draft, subset, people, box_score_N, predicted)


def _people(context: Context, subset: Subset) -> tuple[Instances, npt.NDArray[np.float64]]:
    """Who is predicted, and the scores of their boxes."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    table = read_instances(entry.path(INSTANCES))
    if subset == "holdout":
        table = table.select(table.holdout_N)
    elif context.settings.evaluate.boxes is not None:
        width, height = context.settings.crop.size_wh
        return read_detections(context.settings.evaluate.boxes, table, aspect_wh=width / height)
    return table, np.ones(len(table.id_N))


def read_ground_truth(context: Context, subset: Subset) -> dict[str, Any]:
    """The COCO ground truth of a subset, as a dict."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    truth: dict[str, Any] = json.loads(entry.path(GROUND_TRUTH).read_bytes())
    return truth


def _commit(
    context: Context,
    draft: Draft,
    subset: Subset,
    people: Instances,
    box_score_N: npt.NDArray[np.float64],
    predicted: dict[Any, npt.NDArray[np.float32]],
) -> Entry:
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
        write_results(draft.folder / f"results-{decoder}.json", results)
        columns["instance_id"] += people.id_N.tolist()
        columns["image_id"] += image_id_N.tolist()
        columns["decoder"] += [decoder] * len(score_N)
        columns["score"] += score_N.tolist()
        columns["kept"] += kept_N.tolist()
    measured["images"] = measured["quarter"]["num_images"]
    stacked = np.concatenate([predicted[decoder] for decoder in DECODERS])
    write_predictions(draft.folder / PREDICTIONS, columns, stacked)
    files: Sequence[str] = [PREDICTIONS, *(f"results-{decoder}.json" for decoder in DECODERS)]
    return draft.commit(files, measured=measured, made={"device": context.device})
