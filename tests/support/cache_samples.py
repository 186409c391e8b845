"""A small home with entries of every kind, linked by their recipes, and one experiment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache.__main__ import main
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local

__all__ = ["Cache", "a_home", "grow_old", "leave_run", "put", "store_of"]


def store_of(home: Path) -> Store:
    return Store(LocalPath(home) / "store")


def put(store: Store, kind: str, recipe: Mapping[str, Any], measured: Mapping[str, Any] | None = None, **files: bytes) -> Entry:
    """Commit an entry with these files; an underscore in a name stands for a slash."""
    content = {name.replace("_", "/"): data for name, data in (files or {"file": b"content"}).items()}
    with store.draft(kind, recipe) as draft:
        assert isinstance(draft, Draft)
        for name, data in content.items():
            path = draft.folder / name
            path.parent.make_folders()
            local(path).write_bytes(data)
        return draft.commit(list(content), measured=measured or {})


def grow_old(path: Path, hours: float) -> None:
    """Set the times of ``path`` and of everything below it to ``hours`` ago."""
    then = time.time() - hours * 3600
    for each in (*sorted(path.rglob("*"), reverse=True), path):
        os.utime(each, (then, then), follow_symlinks=False)


def leave_run(home: Path, name: str, entries: Sequence[Entry]) -> Path:
    """Write the folder of a finished experiment that refers to ``entries``."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"entries": {entry.key: entry.entry_id for entry in entries}}))
    (folder / "config.resolved.yaml").write_text(f"name: {name}\n")
    return folder


def _scores(ap: float) -> dict[str, Any]:
    return {
        name: {"AP": ap + more, "joints": [{"name": "nose"}] * 17}
        for name, more in (("quarter", 0.0), ("dark", 0.02), ("centroid", 0.01))
    }


def a_home(home: LocalPath) -> dict[str, Entry]:
    """Make the entries, by name; all but ``unused`` belong to the experiment ``demo``."""
    store, made = store_of(home), {}
    train = made["train"] = put(store, "instances", {"split": "train"}, {"instances": 1637, "content": "of train"})
    val = made["val"] = put(store, "instances", {"split": "val"}, {"instances": 326, "content": "of val"})
    primary = made["primary"] = put(
        store, "teachers", {"instances": "of train"}, {"content": "of primary"}, weights=b"w" * 2000
    )
    senior = made["senior"] = put(store, "teachers", {"base": "of primary", "mask": {"drop": 0.1}}, {"content": "of senior"})
    control = made["control"] = put(store, "teachers", {"base": "of primary", "mask": None}, {"content": "of control"})
    plain = made["val view"] = put(store, "views", {"instances": "of val", "view": 0}, {"rows": 326})
    drawn = made["train view"] = put(store, "views", {"instances": "of train", "view": 3}, {"rows": 1637})
    made["val bits"] = put(
        store,
        "targets",
        {"view": plain.key, "teacher": "of senior", "mask": True},
        {"rows": 326, "AP_from_bits": 0.691, "AP_float_dark": 0.715},
    )
    bits = made["train bits"] = put(
        store,
        "targets",
        {"view": drawn.key, "teacher": "of primary", "mask": False, "binarize": {"threshold": 0.5}},
        {"rows": 1637},
        bits_c_0=b"shard",
        zarr=b"{}",
    )
    weights = {"ground_truth": 0.5, "primary": 0.5, "senior": 0.0}
    made["student"] = put(
        store,
        "students",
        {"instances": "of train", "epochs": [{"view": drawn.key, "primary": bits.key, "weights": weights}]},
        {"network": "hrnet_w20_small", "content": "of student"},
    )
    made["baseline"] = put(
        store,
        "students",
        {"instances": "of train", "epochs": [{"view": drawn.key, "weights": {**weights, "primary": 0.0}}]},
        {"network": "hrnet_w20_small", "content": "of baseline"},
    )
    for name, of in (("primary", primary), ("senior", senior), ("student", made["student"])):
        recipe = {"network": of.measured["content"], "instances": "of val", "subset": "val", "mask": "given"}
        made[f"scores of {name}"] = put(store, "evaluations", recipe, {"instances": 326, **_scores(0.6)})
    recipe = {"network": "of senior", "instances": "of val", "subset": "val", "mask": "withheld"}
    made["scores without"] = put(store, "evaluations", recipe, {"instances": 326, **_scores(0.5)})
    sources = [{"entry": entry.entry_id, "fingerprint": entry.content[:16]} for entry in (train, val, primary, control)]
    made["report"] = put(store, "reports", {"made_from": sources})
    leave_run(home, "demo", list(made.values()))
    made["unused"] = put(store, "targets", {**bits.manifest.recipe, "binarize": {"threshold": 0.4}}, {"rows": 1637})
    return made


class Cache:
    """Runs commands on a home, and keeps the output of the last one."""

    def __init__(self, home: LocalPath, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys
        self.out, self.err = "", ""

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        status = main([*arguments, "--home", str(self.home)])
        self.out, self.err = self._capsys.readouterr()
        return status

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 (any JSON)
        self(*arguments, "--json")
        return json.loads(self.out)

    def lines(self, *arguments: str) -> list[list[str]]:
        """Return the output as cells: two spaces separate columns."""
        self(*arguments)
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]
