"""Stage prepare: validate a COCO-format dataset, write its instance table, and quarantine broken records with the reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from stages.base import Context, InstancesStep, Step
from stages.data.coco import CocoFile, Quarantined, Record, SortedOut, ground_truth_json, read_coco, sort_out
from stages.data.labels import labelled
from stages.data.synthetic.dataset import SYNTHETIC_VERSION
from stages.data.windows import WINDOWS_RECIPE, ImageSource
from stages.distributed.run_tasks import Crashes, run_tasks, task_options
from stages.findings import measured_findings
from stages.pose.skeleton import COCO_17, Skeleton
from stages.prepare.broken import advice_on_boxes, advice_on_faults, reasons
from stages.prepare.embedded import embedded_annotations, embedded_folder
from stages.prepare.image_task import ImagesJob, ImagesResult, crashed, pieces, read_images
from stages.prepare.missing import advice_on_missing
from stages.prepare.orientation import turned_images
from stages.prepare.plausible import implausible
from stages.settings import Split
from storage_schemas.errors import DataError, Remedy
from storage_schemas.formats.instances import Instances, read_skeleton, write_instances
from storage_schemas.formats.windows import WINDOWS_INDEX, StoredWindow, write_index
from storage_schemas.paths.facts import FileFacts, known_facts_of
from storage_schemas.paths.path import StorePath
from storage_schemas.store.recipe import canonical_json
from storage_schemas.store.store import Draft

__all__ = [
    "GROUND_TRUTH",
    "INSTANCES",
    "image_source_of",
    "images_of",
    "instances_step",
    "make",
    "read_all_images",
    "skeleton_of",
    "steps",
]

INSTANCES = "instances.parquet"
QUARANTINE = "quarantine.jsonl"
GROUND_TRUTH = "ground_truth.json"
_RULES_VERSION = 5
_TASK_IMAGES = 256
_MOST_BAD = 0.05
"""The largest max_bad_fraction that an error proposes: with more broken records the data has a fault to repair."""


def steps(context: Context) -> list[InstancesStep]:
    """The instance tables of the training and the validation set."""
    return [instances_step(context, "train"), instances_step(context, "val")]


def instances_step(context: Context, split: Split) -> InstancesStep:
    """The table of one split; its recipe holds a hash of the annotations, and of the names and sizes of the images."""
    settings = context.settings
    width, height = settings.crop.size_wh
    if split not in context.sources:
        context.sources[split] = _source(context, split)
    recipe: dict[str, Any] = {
        "source": context.sources[split],
        "split": split,
        "skeleton": asdict(COCO_17),
        "aspect_wh": width / height,
        "rules": _RULES_VERSION,
    }
    if settings.prepare.crops:
        recipe["crops"] = WINDOWS_RECIPE
    if _keeps_unlabelled(context, split):
        recipe["unlabelled"] = True
    return InstancesStep(title=f"{split} instances", recipe=recipe, split=split)


def _keeps_unlabelled(context: Context, split: Split) -> bool:
    return split == "train" and context.settings.distill.use_unlabelled


def image_source_of(context: Context, split: Split) -> ImageSource:
    """The images of a split; with ``prepare.crops`` its instance table must exist, since it holds the windows."""
    root = images_of(context, split)
    if not context.settings.prepare.crops:
        return ImageSource(root)
    return ImageSource(root, context.need(instances_step(context, split)).whole())


def skeleton_of(context: Context, split: Split) -> Skeleton:
    """The joint set of a split, as its instance table has it; raises ``MissingInputError`` without the table."""
    return read_skeleton(context.need(instances_step(context, split)).path(INSTANCES))


def images_of(context: Context, split: Split) -> StorePath:
    """The image folder of a split; the embedded dataset is drawn if it does not exist."""
    if context.settings.data.embedded is not None:
        return embedded_folder(context) / "images"
    source = context.settings.data.train if split == "train" else context.settings.data.val
    assert source is not None
    return source.images


def make(context: Context, missing: Sequence[Step]) -> None:
    """Read, check, quarantine and commit each missing table."""
    for step in missing:
        assert isinstance(step, InstancesStep)
        # Every image is read again, so no part of a killed run is adopted.
        with context.store.draft(step.kind, step.recipe, adopt=False) as draft:
            if isinstance(draft, Draft):
                _make_split(context, step.split, draft)


def _source(context: Context, split: Split) -> Mapping[str, Any]:
    data = context.settings.data
    if data.embedded is not None:
        return {"embedded": data.embedded.recipe, "version": SYNTHETIC_VERSION}
    source = data.train if split == "train" else data.val
    assert source is not None
    for path, what in ((source.annotations, "annotations file"), (source.images, "image folder")):
        if not (path.is_file() if path is source.annotations else path.is_dir()):
            raise DataError(
                f"The {what} {path} (data.{split}) does not exist", allowed="an existing path that every node can read"
            )
    return {
        "annotations": known_facts_of(source.annotations).sha256,
        "images": _listing_once(source.images, context.run),
    }


@lru_cache(maxsize=8)
def _listing_once(root: StorePath, run: str) -> str:
    """A hash over the names and sizes of all files below ``root``, computed once in a run.

    Hashes of the images' bytes are in the table.
    """
    return hashlib.sha256(canonical_json(root.listing())).hexdigest()


def _annotations_of(context: Context, split: Split) -> Path:
    if context.settings.data.embedded is not None:
        return embedded_annotations(context, split)
    source = context.settings.data.train if split == "train" else context.settings.data.val
    assert source is not None
    annotations = source.annotations
    return annotations.file(known_facts_of(annotations)).fetch()


def _make_split(context: Context, split: Split, draft: Draft) -> None:
    width, height = context.settings.crop.size_wh
    root = images_of(context, split)
    coco = read_coco(_annotations_of(context, split), COCO_17)
    sorted_out = sort_out(coco, aspect_wh=width / height, keep_unlabelled=_keeps_unlabelled(context, split))
    with_label = [record for record in sorted_out.records if record.keypoints_K3[:, 2].any()]
    findings = implausible(coco, with_label, split=split, aspect_wh=width / height)
    folder = draft.folder if context.settings.prepare.crops else None
    read = read_all_images(context, root, sorted_out.records, folder, title=f"prepare: {split} images")
    facts = read.facts
    bad_images = {image_id: reason for image_id, reason in facts.items() if isinstance(reason, str)}
    quarantine = [*sorted_out.quarantine, *_of_bad_images(sorted_out.records, bad_images)]
    good = [record for record in sorted_out.records if record.image_id not in bad_images]
    _write_quarantine(draft.work / QUARANTINE, quarantine)
    _refuse_if_too_bad(context, split, quarantine, coco, num_records=len(good) + len(quarantine))
    if not good:
        raise _nothing_to_teach(split, coco, sorted_out)
    table = Instances.from_records(
        good, {key: fact for key, fact in facts.items() if isinstance(fact, FileFacts)}, coco.skeleton
    )
    write_instances(draft.work / INSTANCES, table)
    truth = ground_truth_json(coco, quarantine=quarantine, bad_images=set(bad_images))
    (draft.work / GROUND_TRUTH).write_bytes(canonical_json(truth))
    files = [INSTANCES, QUARANTINE, GROUND_TRUTH]
    if folder:
        write_index(draft.work, read.windows)
        files += [WINDOWS_INDEX, *dict.fromkeys(window.shard for window in read.windows)]
    measured: dict[str, Any] = {
        "content": _content(table, draft.work / GROUND_TRUTH, read.windows if folder else None),
        "instances": len(table.id_N),
        "images": len(table.image_id_M),
        "with_mask": int(table.has_mask_N.sum()),
        **({"labelled": int(labelled(table).sum())} if _keeps_unlabelled(context, split) else {}),
        "quarantined": dict(Counter(item.kind for item in quarantine)),
        "skipped": sorted_out.skipped,
        **measured_findings([*findings, *turned_images(split, read.turned, of=len(facts))]),
    }
    if folder:
        measured["crops"] = len(read.windows)
    draft.commit(files, measured=measured, made={"device": "cpu"})
    context.notify(
        f"prepare: {split} set of {len(table.id_N)} instances on {len(table.image_id_M)} images; "
        f"{len(quarantine)} quarantined, {sum(sorted_out.skipped.values())} skipped by rule"
    )


def read_all_images(
    context: Context, root: StorePath, records: Sequence[Record], windows: StorePath | None, *, title: str
) -> ImagesResult:
    """Read the images of ``records`` below ``root`` as tasks, of which each may crash, and store windows (None for none)."""
    by_image: dict[int, list[Record]] = {}
    for record in records:
        by_image.setdefault(record.image_id, []).append(record)
    images = [tuple(of_image) for of_image in by_image.values()]
    jobs = []
    for number, start in enumerate(range(0, len(images), _TASK_IMAGES)):
        ours = tuple(images[start : start + _TASK_IMAGES])
        jobs.append((ImagesJob(part=f"windows-{number:05d}", root=root, images=ours, windows=windows), len(ours)))
    options = task_options(context, root, network=False)
    on_crash = Crashes(pieces, crashed)
    read = ImagesResult()
    for _, found in run_tasks(read_images, jobs, options=options, title=title, unit="images", on_crash=on_crash):
        read.facts.update(found.facts)
        read.turned.update(found.turned)
        read.windows.extend(found.windows)
    # Tasks end in any order.
    read.windows.sort(key=lambda window: (window.shard, window.offset))
    return read


def _of_bad_images(records: Sequence[Record], bad_images: Mapping[int, str]) -> list[Quarantined]:
    return [
        Quarantined(record.annotation_id, record.image_id, record.file_name, "image", bad_images[record.image_id])
        for record in records
        if record.image_id in bad_images
    ]


def _write_quarantine(path: StorePath, quarantine: Sequence[Quarantined]) -> None:
    path.write_atomic("".join(json.dumps(item.as_dict()) + "\n" for item in quarantine).encode())


def _refuse_if_too_bad(
    context: Context, split: Split, quarantine: Sequence[Quarantined], coco: CocoFile, *, num_records: int
) -> None:
    allowed = context.settings.prepare.max_bad_fraction
    if not quarantine or len(quarantine) <= allowed * num_records:
        return
    listed = context.run_dir / f"quarantine.{split}.jsonl"
    listed.parent.make_folders()
    _write_quarantine(listed, quarantine)
    root = images_of(context, split)
    share = len(quarantine) / num_records
    width, height = context.settings.crop.size_wh
    advice = (
        _advice_on_images(split, quarantine, coco, root)
        or advice_on_boxes(coco, quarantine, aspect_wh=width / height)
        or advice_on_faults(quarantine)
    )
    raise DataError(
        f"{len(quarantine)} of {num_records} records of the {split} set are broken ({share:.2%}); all are listed in {listed}\n"
        + "\n".join(f"    {line}" for line in reasons(quarantine, str(root))),
        allowed=f"at most {allowed:.2%} (prepare.max_bad_fraction)",
        remedy=Remedy("run", text=advice, stage="prepare", settings=(f"prepare.max_bad_fraction={_MOST_BAD}",))
        if share <= _MOST_BAD
        else Remedy("advice", text=advice),
    )


def _advice_on_images(split: Split, quarantine: Sequence[Quarantined], coco: CocoFile, root: StorePath) -> str | None:
    """Where the files of missing images are, if missing images are the only fault."""
    if {item.kind for item in quarantine} != {"image"}:
        return None
    present = {name for name, _ in root.listing()}
    missing = {str(PurePosixPath(item.file_name)) for item in quarantine}
    if missing & present:
        return None
    names = [image["file_name"] for image in coco.images.values() if isinstance(image.get("file_name"), str)]
    named = present & {str(PurePosixPath(name)) for name in names}
    return advice_on_missing(missing, present, named=named, folder=str(root), setting=f"data.{split}.images")


def _nothing_to_teach(split: Split, coco: CocoFile, sorted_out: SortedOut) -> DataError:
    counts = [f"{count} x {rule}" for rule, count in sorted_out.skipped.items()]
    skipped = f" are skipped ({', '.join(counts)})" if counts else ""
    return DataError(
        f"The {split} set has no usable instance: its {len(coco.annotations)} annotations{skipped}",
        allowed="at least one annotation of a person with a labelled joint (v = 1 or 2), and with iscrowd 0",
    )


def _content(table: Instances, ground_truth: Path, crops: Sequence[StoredWindow] | None) -> str:
    """A hash of the table's values and of the stored windows; library versions do not change it."""
    digest = hashlib.sha256(ground_truth.read_bytes())
    digest.update(table.skeleton.encode())
    for array in (table.id_N, table.center_N2, table.size_N2, table.keypoints_NK3):
        digest.update(array.tobytes())
    for text in table.sha256_M:
        digest.update(text.encode())
    for mask in table.mask_rle.to_pylist():
        digest.update(mask or b"-")
    if crops is not None:
        digest.update(canonical_json([[crop.id, crop.left, crop.top, crop.width, crop.height, crop.crc32] for crop in crops]))
    return digest.hexdigest()
