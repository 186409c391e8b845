"""The embedded dataset: drawn on first use, into the home."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.base import Context
from stages.data.synthetic.dataset import SYNTHETIC_VERSION, SyntheticSpec, draw_dataset
from stages.progress import progress
from stages.settings import Split
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.parts import MARKER, Part, copy_part, read_marker
from storage_schemas.store.recipe import canonical_json

__all__ = ["embedded_annotations", "embedded_folder"]

_DRAWN = f"drawn{MARKER}"
"""Marker of a complete embedded dataset; it is written last."""


def embedded_folder(context: Context) -> StorePath:
    """The folder of the embedded dataset, which is drawn on first use."""
    settings = context.settings.data.embedded
    assert settings is not None
    spec = SyntheticSpec(
        train_images=settings.train_images,
        val_images=settings.val_images,
        seed=settings.seed,
        unlabelled=settings.unlabelled,
    )
    name = hashlib.sha256(canonical_json([settings.recipe, SYNTHETIC_VERSION])).hexdigest()[:12]
    folder = context.home / "datasets" / f"embedded-{name}"
    if _drawn(folder) is None:
        folder.mirror().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.mirror().parent) as scratch:
            drawn = LocalPath(scratch) / name
            _draw(drawn, spec)
            copy_part(drawn, folder, _DRAWN.removesuffix(MARKER))
    return folder


_SEEN: dict[StorePath, Part] = {}
"""Embedded datasets that this process has found complete."""


def _drawn(folder: StorePath) -> Part | None:
    """The files of an embedded dataset, or None if it is not drawn yet."""
    if folder in _SEEN and not folder.is_dir():
        # The user may delete the folder to have it drawn again.
        del _SEEN[folder]
    if folder not in _SEEN and (part := read_marker(folder / _DRAWN)):
        _SEEN[folder] = part
    return _SEEN.get(folder)


def _draw(folder: Path, spec: SyntheticSpec) -> None:
    with progress("prepare: drawing the embedded dataset", spec.train_images + spec.val_images, "images") as bar:
        draw_dataset(folder, spec, progress=lambda done, _: bar.advance(done - bar.done))


def embedded_annotations(context: Context, split: Split) -> Path:
    """The annotations file of a split of the embedded dataset, on this node."""
    folder, name = embedded_folder(context), f"annotations/{split}.json"
    part = _drawn(folder)
    assert part is not None, "embedded_folder has drawn it"
    return (folder / name).file(part.files[name]).fetch()
