"""Scores of one network: an entry with its predictions, its COCO results, and its AP by every decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stages.base import Context, ScoresStep, Step, Subset
from stages.data.detections import read_detections, require_usable
from stages.data.holdout import held_out
from stages.data.images import DECODER_VERSION
from stages.data.labels import labelled
from stages.data.windows import ImageSource
from stages.distributed.predict import predict
from stages.findings import Finding, measured_findings
from stages.inference import DECODERS
from stages.networks.spec import NetworkSpec
from stages.prepare.stage import GROUND_TRUTH, INSTANCES, image_source_of, images_of, instances_step, read_all_images
from stages.scoring.coco_results import coco_results, write_results
from stages.scoring.instance_scores import score_poses
from stages.scoring.protocol import Protocol
from stages.scoring.teacher_findings import ScoredTeacher, colour_findings, low_ap, teacher_swapped
from stages.settings import Split
from storage_schemas.formats.instances import Instances, read_instances, write_instances
from storage_schemas.formats.predictions import write_predictions
from storage_schemas.paths.facts import FileFacts
from storage_schemas.store.store import Entry

__all__ = ["backend_of", "evaluation_step", "is_on_ground_truth", "read_ground_truth", "score_network"]

PREDICTIONS = "predictions.parquet"
_VERSION = 2
_PRECISION: Literal["float32"] = "float32"
"""Scores are compared across machines, and scoring is short, so it never uses bfloat16."""


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
    """The scores of the network that the step ``network`` leaves; ``who`` is its name in messages.

    Teachers are always scored on ground-truth boxes, whatever ``evaluate.boxes`` says: only annotated instances have a mask.
    """
    instances = instances_step(context, "val" if subset == "val" else "train")
    boxes = context.settings.evaluate.boxes if stage == "evaluate" and subset == "val" else None
    recipe = _recipe(context, context.content(network), subset, boxes, divisor=divisor, withhold_mask=withhold_mask)
    title = f"AP of the {who} on {'the validation set' if subset == 'val' else 'held-out training instances'}"
    return ScoresStep(
        stage=stage,
        title=title,
        recipe=recipe,
        waits_for=context.waits(instances, network),
        who=who,
        network=network,
        subset=subset,
        boxes=boxes,
        divisor=divisor,
        withhold_mask=withhold_mask,
    )


def backend_of(spec_suffix: str, context: Context) -> str:
    """The library and device that run a network. It is part of keys, because backends differ in the last digits."""
    return f"{'onnxruntime' if spec_suffix == '.onnx' else 'torch'}-{context.device}"


def is_on_ground_truth(entry: Entry) -> bool:
    """Whether an entry of scores was made with the annotated boxes, and not with those of a detector."""
    return Protocol.is_on_ground_truth(entry.manifest.recipe["protocol"])


def _recipe(
    context: Context, content: str, subset: Subset, boxes: Path | None, *, divisor: int, withhold_mask: bool
) -> dict[str, Any]:
    instances = instances_step(context, "val" if subset == "val" else "train")
    # The instance table lists only images with annotations, and a detector finds instances on the others too.
    holdout = {} if subset == "val" else {"holdout_fraction": context.settings.prepare.holdout_fraction}
    images = {} if boxes is None else {"images": instances.recipe["source"]}
    return {
        "network": content,
        "instances": context.content(instances),
        "subset": subset,
        **holdout,
        **images,
        "protocol": Protocol.of(context.settings, size_divisor=divisor, boxes=boxes).as_recipe(),
        "mask": "withheld" if withhold_mask else "given",
        "precision": _PRECISION,
        "image_decoder": DECODER_VERSION,
        "version": _VERSION,
    }


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
    is_given: bool = False,
) -> Entry:
    """Predict with a network, score the predictions by every decoder, and commit the entry.

    Args:
        context: the run.
        spec: how to load the network.
        content: the content of the network's entry, for the key.
        who: the network's name in messages.
        stage: the stage that asks. The manifest records it: only this field distinguishes teachers from students.
        subset: the instances to predict.
        boxes: a detections file; without it, the annotated boxes.
        divisor: how many times smaller than the crop the network's input is.
        withhold_mask: give a senior no masks.
        is_given: whether the weights are the user's, which can expect other colours than odkd gives.

    Raises:
        DataError: a detections file that cannot be used, or predictions that are not finite.
    """
    recipe = _recipe(context, content, subset, boxes, divisor=divisor, withhold_mask=withhold_mask)
    with context.store.draft("evaluations", recipe) as draft:
        if isinstance(draft, Entry):
            return draft
        instances, box_score_N, findings = _instances(context, subset, boxes)
        write_instances(draft.work / INSTANCES, instances)
        predicted = predict(
            context,
            spec,
            draft.file(INSTANCES),
            _images(context, subset, boxes),
            divisor=divisor,
            flip=context.settings.evaluate.flip,
            withhold_mask=withhold_mask,
            precision=_PRECISION,
            title=f"evaluate: {who}",
        )
        measured, files = _scored(context, draft.work, subset, instances, box_score_N, predicted)
        if stage == "teachers" and not withhold_mask:
            teacher = ScoredTeacher(who=who, is_given=is_given, instances=instances, predicted=predicted, measured=measured)
            truth, images = read_ground_truth(context, subset), _images(context, subset, boxes)
            colours = colour_findings(context, spec, draft, teacher, truth, images)
            findings = [*findings, *low_ap(teacher), *teacher_swapped(teacher), *colours]
        measured |= measured_findings(findings)
        return draft.commit(files, measured=measured, made={"device": context.device, "stage": stage})


def _instances(
    context: Context, subset: Subset, boxes: Path | None
) -> tuple[Instances, npt.NDArray[np.float64], Sequence[Finding]]:
    """The instances to predict, the scores of their boxes, and what is odd about the boxes of a detector."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    table = read_instances(entry.path(INSTANCES))
    if subset == "holdout":
        table = table.select(held_out(table, context.settings.prepare.holdout_fraction) & labelled(table))
    return (table, np.ones(len(table.id_N)), ()) if boxes is None else _detected(context, boxes, table)


def _images(context: Context, subset: Subset, boxes: Path | None) -> ImageSource:
    split: Split = "val" if subset == "val" else "train"
    # Windows are stored by annotation id. A detection may have the id of an annotation with another box.
    return image_source_of(context, split) if boxes is None else ImageSource(images_of(context, split))


def _detected(context: Context, boxes: Path, table: Instances) -> tuple[Instances, npt.NDArray[np.float64], Sequence[Finding]]:
    """The detections on images of the ground truth; ``table`` holds the images that ``prepare`` has checked."""
    width, height = context.settings.crop.size_wh
    images = read_ground_truth(context, "val")["images"]
    records, score_N, findings = read_detections(boxes, images, aspect_wh=width / height, skeleton=table.skeleton)
    known = zip(table.image_id_M.tolist(), table.sha256_M, table.bytes_M.tolist(), strict=True)
    facts = {image_id: FileFacts(size, sha256) for image_id, sha256, size in known}
    # ``prepare`` checks only images with annotations; check the others now, by the same rules.
    if new := [record for record in records if record.image_id not in facts]:
        root, title = images_of(context, "val"), "evaluate: images without annotations"
        facts |= require_usable(root, new, read_all_images(context, root, new, None, title=title).facts)
    return Instances.from_records(records, facts, table.skeleton), score_N, findings


def read_ground_truth(context: Context, subset: Subset) -> dict[str, Any]:
    """The COCO ground truth of the split that a subset belongs to."""
    entry = context.need(instances_step(context, "val" if subset == "val" else "train"))
    truth: dict[str, Any] = json.loads(entry.path(GROUND_TRUTH).read_bytes())
    return truth


def _scored(
    context: Context,
    work: Path,
    subset: Subset,
    instances: Instances,
    box_score_N: npt.NDArray[np.float64],
    predicted: dict[Any, npt.NDArray[np.float32]],
) -> tuple[dict[str, Any], Sequence[str]]:
    """The scores of the predictions by every decoder, and the names of the files that this writes into ``work``."""
    truth = read_ground_truth(context, subset)
    protocol = Protocol.of(context.settings)
    image_ids = None if subset == "val" else [int(instances.image_id_M[image]) for image in np.unique(instances.image_N)]
    image_id_N = instances.image_id_M[instances.image_N]
    measured: dict[str, Any] = {"instances": len(instances.id_N)}
    columns: dict[str, list[Any]] = {name: [] for name in ("instance_id", "image_id", "decoder", "score", "kept")}
    for decoder in DECODERS:
        keypoints = predicted[decoder]
        scored = score_poses(truth, instances, box_score_N, keypoints, protocol, image_ids=image_ids)
        measured[decoder] = scored.measured
        kept_N = scored.kept_N
        results = coco_results(image_id_N[kept_N], scored.score_N[kept_N], keypoints[kept_N])
        write_results(work / f"results-{decoder}.json", results)
        columns["instance_id"] += instances.id_N.tolist()
        columns["image_id"] += image_id_N.tolist()
        columns["decoder"] += [decoder] * len(scored.score_N)
        columns["score"] += scored.score_N.tolist()
        columns["kept"] += kept_N.tolist()
    measured["images"] = measured["quarter"]["num_images"]
    stacked = np.concatenate([predicted[decoder] for decoder in DECODERS])
    write_predictions(work / PREDICTIONS, columns, stacked)
    return measured, [PREDICTIONS, *(f"results-{decoder}.json" for decoder in DECODERS)]
