"""Weights that the user gives: the recipe of their entry, and the copy of all their files into it."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

from stages.base import TeacherPart
from stages.networks.onnx_files import data_files
from stages.settings import TeacherSource
from stages.starting import input_recipe
from storage_schemas.errors import WeightsError
from storage_schemas.paths.facts import facts_of, known_facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft

__all__ = ["copy_weights", "given_recipe"]

_FOLDER = "network"
"""The folder of a network of several files: in it no data file can have the name of a file of the store."""


def given_recipe(source: TeacherSource, part: TeacherPart, *, size_wh: list[int], version: int) -> dict[str, Any]:
    """What the entry of given weights depends on: the hashes of all files that the network consists of.

    Raises:
        WeightsError: a file is missing, or is named in a way that leads out of the network's folder.
    """
    weights = source.weights
    assert weights is not None
    if not weights.is_file():
        raise WeightsError(f"The weights {weights} (teachers.{part}) do not exist", allowed="an existing file")
    sha256 = known_facts_of(LocalPath(weights)).sha256
    recipe = {"network": source.network, "size_wh": size_wh, "weights": sha256, "version": version, **input_recipe(source)}
    # A network of one file has no such field, so that its key is the one of earlier releases.
    data = {name: known_facts_of(LocalPath(weights.parent / name)).sha256 for name in data_files(weights)}
    return {**recipe, "data": data} if data else recipe


def copy_weights(weights: Path, draft: Draft) -> dict[str, Any]:
    """Copy the files into the draft; return the name of the weights there, and the names of their data files if they have some.

    Raises:
        WeightsError: a file is no longer the one that the recipe has the hash of.
    """
    data = list(draft.recipe.get("data", ()))
    if not data:
        name = f"weights{weights.suffix}"
        _copy(weights, draft.work / name, draft.recipe["weights"])
        return {"weights": name}
    name = next(free for number in count() if (free := f"weights{number or ''}{weights.suffix}") not in data)
    _copy(weights, draft.work / _FOLDER / name, draft.recipe["weights"])
    for each in data:
        _copy(weights.parent / each, draft.work / _FOLDER / each, draft.recipe["data"][each])
    return {"weights": f"{_FOLDER}/{name}", "data": [f"{_FOLDER}/{each}" for each in data]}


def _copy(file: Path, target: LocalPath, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    if facts_of(target).sha256 != sha256:
        raise WeightsError(f"The weights {file} changed while they were read", allowed="a file that no other program writes")
