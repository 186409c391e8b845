"""Part store: verifying a large entry, and listing many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.bench.entries import Arrays, Cached, Data, write_entry
from pipeline.bench.records import read_said
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.timing import interleaved, one_core
from storage_schemas.atomic import write_atomic
from storage_schemas.entry import Entry, Store
from storage_schemas.manifest import MANIFEST, Manifest, key_of
from storage_schemas.targets import ArraySpec

__all__ = ["measure_store"]

_ASK_VERIFY, _ASK_LIST = Ask("value", most=20), Ask("value", most=1)


def measure_store(data: Data) -> Part:
    """Seconds of each."""
    cached, folder, scale = data.many, data.folder, data.scale
    large = _large_entry(Store(folder / "large"), cached, scale.verified_rows)
    listed = Store(folder / "listed")
    _many_manifests(listed, large.manifest, scale.listed)
    with one_core():
        verified = interleaved({"verify": lambda _: _verify(large)}, rounds=scale.verify_rounds, title="verifying")["verify"]
        found = interleaved({"list": lambda _: _list(listed, scale.listed)}, rounds=scale.list_rounds, title="listing")["list"]
    return Part(
        "store",
        "verifying and listing entries, on one core",
        "",
        (
            Row(f"verifying targets of {scale.verified_rows:,} people", float(np.median(verified)), "s", None, _ASK_VERIFY),
            Row(f"listing {scale.listed:,} entries", float(np.median(found)), "s", None, _ASK_LIST),
        ),
        (
            f"the large entry has {len(large.manifest.files)} files, {large.manifest.size / 1e6:,.0f} MB, in the page cache; "
            f"its people are {len(cached.instances.id_N):,}, repeated in random order",
            "each of the listed entries is a manifest of as many files",
        ),
    )


def _large_entry(store: Store, cached: Cached, num: int) -> Entry:
    said, rng = read_said(cached.view, cached.targets["primary"]), np.random.default_rng(0)

    def block_of(start: int, stop: int) -> Arrays:
        rows = rng.integers(0, len(said.bits_NP), stop - start)
        return {"bits": said.bits_NP[rows], "peak": said.peak_NK[rows]}

    specs = (
        ArraySpec("bits", said.bits_NP.shape[1:], "uint8"),
        ArraySpec("peak", said.peak_NK.shape[1:], "float16"),
    )
    recipe = {**cached.targets["primary"].manifest.recipe, "people": num}
    return write_entry(store, "targets", recipe, specs=specs, num=num, block_of=block_of)


def _verify(entry: Entry) -> None:
    assert not entry.problems(), "what was just written is whole"


def _many_manifests(store: Store, manifest: Manifest, num: int) -> None:
    """Entries without their files: a list reads no more than their manifests."""
    for number in range(num):
        recipe = {**manifest.recipe, "number": number}
        other = replace(manifest, key=key_of(manifest.kind, recipe), recipe=recipe)
        home = store.root / other.kind / other.key
        home.mkdir(parents=True)
        write_atomic(home / MANIFEST, other.encode(), durable=False)


def _list(store: Store, num: int) -> None:
    assert sum(1 for _ in store.entries("targets")) == num, "each entry is listed"
