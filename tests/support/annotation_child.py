"""Reading mutated annotation and detections files in a process of its own, because a fault of pycocotools ends the process."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from stages.data.coco import ground_truth_json, read_coco, sort_out
from stages.data.detections import read_detections
from stages.pose.skeleton import COCO_17
from stages.prepare.broken import advice_on_faults, reasons
from stages.prepare.plausible import implausible
from stages.scoring.coco_ap import evaluate
from storage_schemas.formats.instances import Instances, Record
from storage_schemas.paths.facts import FileFacts
from tests.support.annotation_mutations import IMAGES, mutated_annotations, mutated_detections
from tests.support.mutated_reads import Read, read_here, read_in_child

__all__ = ["Read", "read_mutated"]

_ROOT = Path(__file__).parents[2]
_ASPECT_WH = 0.75


def read_mutated(kind: str, numbers: range) -> Read:
    """Read the files of these numbers, of the kind ``annotations`` or ``detections``."""
    return read_in_child("tests.support.annotation_child", kind, numbers)


def _check(records: Sequence[Record]) -> None:
    """All numbers are finite, sizes are above 0, masks have pixels, and the records make a table."""
    for record in records:
        assert min(record.size_2) > 0
        assert np.isfinite([*record.box_4, *record.center_2, *record.size_2, record.area, *record.keypoints_K3.ravel()]).all()
        if record.mask_rle is not None:
            mask_hw = coco_mask.decode({"size": [record.height, record.width], "counts": record.mask_rle})
            assert mask_hw.shape == (record.height, record.width)
            assert mask_hw.any()
    facts = {record.image_id: FileFacts(0, "") for record in records}
    assert len(Instances.from_records(list(records), facts, COCO_17).id_N) == len(records)


def _annotations(path: Path) -> tuple[bool, int]:
    coco = read_coco(path, COCO_17)
    found = sort_out(coco, aspect_wh=_ASPECT_WH)
    findings = implausible(coco, found.records, split="train", aspect_wh=_ASPECT_WH)
    assert all(len(line) < 2000 for line in [*reasons(found.quarantine, "/images"), advice_on_faults(found.quarantine)])
    truth = ground_truth_json(coco, quarantine=found.quarantine)
    json.dumps([truth, [item.as_dict() for item in found.quarantine], [vars(finding) for finding in findings]], allow_nan=False)
    _check(found.records)
    if found.records:
        evaluate(truth, [], skeleton=COCO_17)
    return bool(found.records), len(findings)


def _detections(path: Path) -> tuple[bool, int]:
    found = read_detections(path, IMAGES, aspect_wh=_ASPECT_WH)
    json.dumps([vars(finding) for finding in found.findings], allow_nan=False)
    _check(found.records)
    assert len(found.score_N) == len(found.records) > 0
    assert np.isfinite(found.score_N).all()
    return True, len(found.findings)


_MUTATED: dict[str, Callable[[int], bytes]] = {"annotations": mutated_annotations, "detections": mutated_detections}
_READ: dict[str, Callable[[Path], tuple[bool, int]]] = {"annotations": _annotations, "detections": _detections}


def _main(kind: str, start: int, stop: int) -> None:
    warnings.simplefilter("error")
    # numpy warns about pycocotools' way of returning masks.
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)

    def read(number: int, folder: Path) -> tuple[bool, int]:
        path = folder / "file.json"
        path.write_bytes(_MUTATED[kind](number))
        return _READ[kind](path)

    read_here(read, range(start, stop))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
