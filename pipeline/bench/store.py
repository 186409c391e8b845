"""Part store: time to verify a large entry and to list many entries, with the code of ``pipeline.cache``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.bench.entries import Arrays, CachedView, Data, write_entry
from pipeline.bench.records import read_view_targets
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.timing import interleaved, one_core
from storage_schemas.formats.targets import ArraySpec
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.manifest import MANIFEST, Manifest
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import verify

__all__ = ["measure_store"]

_ASK_VERIFY, _ASK_LIST = Ask("value", most=20), Ask("value", most=1)
_ROUNDS = 5


def measure_store(data: Data) -> Part:
    """Seconds to verify, and seconds to list."""
    cached, scale = data.cached, data.scale
    large_store, home = Store(data.folder / "large"), data.folder / "listed"
    large = _large_entry(large_store, cached, scale.verified_rows)
    _many_manifests(Store(home / "store"), large.manifest, scale.listed)
    with one_core():
        verified = interleaved({"verify": lambda _: _verify(large_store)}, rounds=_ROUNDS, title="verifying")["verify"]
        listed = interleaved({"list": lambda _: _list(home, scale.listed)}, rounds=_ROUNDS, title="listing")["list"]
    return Part(
        "store",
        "verifying and listing entries, on one core",
        "",
        (
            Row(f"verifying targets of {scale.verified_rows:,} instances", float(np.median(verified)), "s", None, _ASK_VERIFY),
            Row(f"pipeline.cache ls of {scale.listed:,} entries", float(np.median(listed)), "s", None, _ASK_LIST),
        ),
        (
            f"the large entry has {len(large.manifest.files)} files, {large.manifest.size / 1e6:,.0f} MB, in the page cache; "
            f"it repeats {scale.rows:,} instances in random order",
            "each of the listed entries is a manifest of as many files; the command is a process, Python's start included",
            f"{_ROUNDS} rounds",
        ),
    )


def _large_entry(store: Store, cached: CachedView, num: int) -> Entry:
    targets, generator = read_view_targets(cached.view, cached.targets["primary"]), np.random.default_rng(0)

    def block_of(start: int, stop: int) -> Arrays:
        rows = generator.integers(0, len(targets.bits_NP), stop - start)
        return {"bits": targets.bits_NP[rows], "peak": targets.peak_NK[rows]}

    specs = (
        ArraySpec("bits", targets.bits_NP.shape[1:], "uint8"),
        ArraySpec("peak", targets.peak_NK.shape[1:], "float16"),
    )
    recipe = {**cached.targets["primary"].manifest.recipe, "instances": num}
    return write_entry(store, "targets", recipe, specs=specs, num=num, block_of=block_of)


def _verify(store: Store) -> None:
    inventory = take_inventory(store)
    assert inventory.entries, "nothing is verified"
    assert not verify(inventory, advance=lambda: None), "a new entry is damaged"


def _many_manifests(store: Store, manifest: Manifest, num: int) -> None:
    """Write entries without files: a listing reads only manifests."""
    for number in range(num):
        recipe = {**manifest.recipe, "number": number}
        other = replace(manifest, key=key_of(manifest.kind, recipe), recipe=recipe)
        folder = store.root / other.kind / other.key
        folder.make_folders()
        (folder / MANIFEST).write_atomic(other.encode(), durable=False)


def _list(home: Path, num: int) -> None:
    command = [sys.executable, "-m", "pipeline.cache", "ls", "--home", str(home)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert sum(line.startswith("targets ") for line in listed.splitlines()) == num, "an entry is not listed"
