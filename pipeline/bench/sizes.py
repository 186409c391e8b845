"""Part sizes: bytes on disk for each instance, of entries of a home or drawn ones, and the same in other layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.bench.records import CAVEAT, COMPRESSED, PICKLES, RECORDS, as_records, compressed, pickled, read_view_targets
from pipeline.bench.results import Ask, Part, Ratio, Row
from storage_schemas.formats.targets import array_facts
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry, find_entry_id
from storage_schemas.store.manifest import MANIFEST
from storage_schemas.store.store import Entry, Store

__all__ = ["TargetEntries", "find_entries", "measure_sizes"]

_ASK_TARGETS, _ASK_VIEW = Ask("value", most=200), Ask("value", most=130)
_TARGETS, _VIEWS = ("bits", "peak"), ("affine", "flip", "mask", "has_mask")
_SAMPLED = 256
"""Instances whose pickles and compressed records are measured."""


@dataclass(frozen=True)
class TargetEntries:
    """Entries of targets, their views, and a text that says where they come from."""

    targets: Sequence[Entry]
    views: Sequence[Entry]
    source: str


def find_entries(home: StorePath, keys: Sequence[str]) -> TargetEntries:
    """Find targets by their keys, or the first digits of these, in the store of ``home``, and their views.

    Raises:
        ConfigError: a key matches no targets, or several.
        MissingInputError: a view is missing.
    """
    store = Store(home / "store")
    targets = [find_entry(store, find_entry_id(store, f"targets/{key.removeprefix('targets/')}")) for key in keys]
    views = dict.fromkeys(f"views/{entry.manifest.recipe['view']}" for entry in targets)
    source = f"targets {', '.join(entry.key for entry in targets)} of {home}"
    return TargetEntries(targets, [find_entry(store, place) for place in views], source)


def measure_sizes(entries: TargetEntries, *, asked: bool) -> Part:
    """Bytes for each instance, view and teacher; with ``asked``, they are compared with the requirements."""
    targets, views = _bytes_per_instance(entries.targets), _bytes_per_instance(entries.views)
    ours = sum(targets.values())
    sample = read_view_targets(entries.views[0], entries.targets[0], stop=_SAMPLED)
    records_N = as_records(sample)
    others = {
        RECORDS: float(records_N.dtype.itemsize),
        COMPRESSED: float(np.mean([len(record) for record in compressed(records_N)])),
        PICKLES: float(np.mean([len(pickled(sample, row)) for row in range(len(records_N))])),
        # Two bytes instead of one bit.
        "dense float16 heatmaps, computed": sample.bits_NP.shape[1] * 8 * 2.0,
    }
    rows = [
        Row("ours: bits and peaks, with manifest", ours, "bytes", None, _ASK_TARGETS if asked else None),
        *(Row(f"- {name}", targets[name], "bytes") for name in targets),
        Row("ours: crop, flip and mask, with manifest", sum(views.values()), "bytes", None, _ASK_VIEW if asked else None),
        *(Row(f"- {name}", views[name], "bytes") for name in views),
        *(Row(name, size, "bytes", Ratio(size / ours)) for name, size in others.items()),
    ]
    num = sum(_num_instances(entry) for entry in entries.targets)
    return Part(
        "sizes",
        "bytes on disk for each instance, view and teacher",
        "our bits and peaks",
        tuple(rows),
        (
            f"{num:,} instances of {entries.source}",
            "ours: crop, flip and mask are stored once for all teachers of a view, and are not in our bits and peaks",
            "a record holds bits, peaks and a seed of 4 bytes in place of crop and flip; a pickle bits, peaks, crop and flip; "
            "dense heatmaps contain nothing else",
            f"of the first {len(records_N)} instances; each pickle is a file and takes whole disk blocks (usually 4,096 bytes)",
            CAVEAT,
        ),
    )


def _bytes_per_instance(entries: Sequence[Entry]) -> dict[str, float]:
    """Bytes for each instance by array; metadata and the manifest are under ``manifest``."""
    total: Counter[str] = Counter()
    for entry in entries:
        for name, facts in entry.manifest.files.items():
            array = name.partition("/")[0]
            total[array if array in (*_TARGETS, *_VIEWS) else "manifest"] += facts.size
        total["manifest"] += len((entry.folder.parent / MANIFEST).read_bytes())
    num = sum(_num_instances(entry) for entry in entries)
    return {name: total[name] / num for name in (*_TARGETS, *_VIEWS, "manifest") if name in total}


def _num_instances(entry: Entry) -> int:
    return array_facts(entry.fetch(), "bits" if entry.manifest.kind == "targets" else "affine")[0][0]
