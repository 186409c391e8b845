"""Part sizes: bytes on disk a person, of real entries of a home or of drawn ones, beside what others would write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.bench.records import pickled, read_said, record_type
from pipeline.bench.results import Ask, Part, Ratio, Row
from storage_schemas.entry import Entry, Store
from storage_schemas.errors import MissingInputError
from storage_schemas.manifest import MANIFEST
from storage_schemas.targets import array_facts

__all__ = ["Weighed", "find_entries", "measure_sizes"]

_ASK_TARGETS, _ASK_VIEW = Ask("value", most=200), Ask("value", most=130)
_TARGETS, _VIEWS = ("bits", "peak"), ("affine", "flip", "mask", "has_mask")
_SAMPLED = 256
"""People whose pickles are made to see how long one is."""
_SHOWN = 10


@dataclass(frozen=True)
class Weighed:
    """Entries of targets and those of the views that they are of, and where they come from."""

    targets: Sequence[Entry]
    views: Sequence[Entry]
    source: str


def find_entries(home: Path, keys: Sequence[str]) -> Weighed:
    """The targets of some keys in the store of ``home``, and the views that their recipes name.

    Raises:
        MissingInputError: one of them is not there.
    """
    store = Store(home / "store")
    targets = [_find(store, "targets", key) for key in keys]
    views = [_find(store, "views", key) for key in dict.fromkeys(entry.manifest.recipe["view"] for entry in targets)]
    return Weighed(targets, views, f"targets {', '.join(keys)} of {home}")


def _find(store: Store, kind: str, key: str) -> Entry:
    there = {entry.key: entry for entry in store.entries(kind)}
    if key not in there:
        known = ", ".join(list(there)[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
        raise MissingInputError(
            f"There is no entry {kind}/{key} in {store.root}",
            allowed=f"keys of targets whose views are there too; of {kind} there are: {known or 'none'}",
            run="python -m pipeline.run --stage targets, or another --home",
        )
    return there[key]


def measure_sizes(weighed: Weighed) -> Part:
    """Bytes a person, view and teacher."""
    targets, views = _bytes_a_person(weighed.targets), _bytes_a_person(weighed.views)
    ours = sum(targets.values())
    said = read_said(weighed.views[0], weighed.targets[0], stop=_SAMPLED)
    others = {
        "records of one size, as TinyViT": record_type(said).itemsize,
        "a pickle a person, as FKD": np.mean([len(pickled(said, row)) for row in range(len(said.bits_NP))]),
        # Two bytes where we have a bit.
        "dense float16 heatmaps, computed": said.bits_NP.shape[1] * 8 * 2,
    }
    rows = [
        Row("ours: bits and peaks, with manifest", ours, "bytes", None, _ASK_TARGETS),
        *(Row(f"- {name}", targets[name], "bytes") for name in targets),
        Row("ours: crop, flip and mask, with manifest", sum(views.values()), "bytes", None, _ASK_VIEW),
        *(Row(f"- {name}", views[name], "bytes") for name in views),
        *(Row(name, float(size), "bytes", Ratio(float(size) / ours)) for name, size in others.items()),
    ]
    people = sum(_people(entry) for entry in weighed.targets)
    return Part(
        "sizes",
        "bytes on disk a person, view and teacher",
        "our bits and peaks",
        tuple(rows),
        (f"{people:,} people of {weighed.source}", "a pickle is a file, and takes whole blocks of a disk (mostly 4,096 bytes)"),
    )


def _bytes_a_person(entries: Sequence[Entry]) -> dict[str, float]:
    """By array; what is left, metadata and the manifest, under ``manifest``."""
    total: Counter[str] = Counter()
    for entry in entries:
        for name, facts in entry.manifest.files.items():
            array = name.partition("/")[0]
            total[array if array in (*_TARGETS, *_VIEWS) else "manifest"] += facts.size
        total["manifest"] += (entry.folder.parent / MANIFEST).stat().st_size
    people = sum(_people(entry) for entry in entries)
    return {name: total[name] / people for name in (*_TARGETS, *_VIEWS, "manifest") if name in total}


def _people(entry: Entry) -> int:
    return array_facts(entry.folder, "bits" if entry.manifest.kind == "targets" else "affine")[0][0]
