"""What a user reads about broken records: each kind of fault once, with its count and an example, and what to do about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath

from stages.data.coco import FaultKind, Quarantined

__all__ = ["advice_on_faults", "advice_on_missing", "reasons"]

_SHOWN = 5
_VALUES = re.compile(r"\[[^\]]*\]|'[^']*'|-?\d[\d.e+-]*|nan|inf")
"""The values in a reason: lists, texts and numbers."""

_ADVICE: dict[FaultKind, str] = {
    "file_name": "write each file_name as a path relative to the image folder",
    "size": "write width and height of each image as whole numbers of pixels",
    "category": "give each annotation the id of one of the categories",
    "iscrowd": "write iscrowd as 0 or 1",
    "bbox": "write bbox as x, y, width, height in pixels of the image",
    "area": "write area as the number of pixels of the person, or as the area of the box",
    "keypoints": "write keypoints as x, y in pixels and v = 0, 1 or 2 for each joint",
    "num_keypoints": "remove num_keypoints or compute it again: it is the number of keypoints with v > 0",
    "segmentation": "remove the wrong segmentations or compute them again: a person may lack one",
    "image": "replace or mend the image files as the reasons say, or remove these images from the annotation file",
}


def reasons(quarantine: Sequence[Quarantined], folder: str) -> list[str]:
    """The faults as lines, the most frequent first: faults that differ only in their values are one line, with an example.

    ``folder`` is the image folder.
    """
    alike: dict[str, list[Quarantined]] = {}
    for item in quarantine:
        alike.setdefault(_VALUES.sub("", item.reason), []).append(item)
    groups = sorted(alike.values(), key=len, reverse=True)
    lines = [
        f"{len(group)} x {group[0].reason} ({'such as ' if len(group) > 1 else ''}{_example(group[0], folder)})"
        for group in groups[:_SHOWN]
    ]
    rest = sum(map(len, groups[_SHOWN:]))
    return [*lines, f"{rest} x other reasons"] if rest else lines


def _example(item: Quarantined, folder: str) -> str:
    annotation = [f"annotation {item.annotation_id}"] if item.annotation_id is not None else []
    image = f"{folder}/{item.file_name}" if item.kind == "image" else f"image {item.image_id}"
    return ", ".join([*annotation, image])


def advice_on_faults(quarantine: Sequence[Quarantined]) -> str:
    """What to do about the kinds of faults, the most frequent first."""
    return "; ".join(_ADVICE[kind] for kind, _ in Counter(item.kind for item in quarantine).most_common(_SHOWN))


def advice_on_missing(missing: Collection[str], present: Collection[str], *, folder: str, setting: str) -> str:
    """What to do about images that are not below the image folder.

    It says where their files lie, if all of them are found in one way: in another folder, or under a similar name.

    Args:
        missing: their names in the annotation file.
        present: the names of all files below ``folder``, relative to it.
        folder: the image folder.
        setting: the name of the setting that holds it.
    """
    known, first = set(present), min(missing)
    if not known:
        return f"{folder} has no files: set {setting} to the folder of the images"
    heads = [PurePosixPath(first).parents[number].as_posix() for number in range(len(PurePosixPath(first).parents) - 1)]
    for head in heads:
        if all(name.startswith(f"{head}/") and name.removeprefix(f"{head}/") in known for name in missing):
            if folder.endswith(f"/{head}"):
                return f"set {setting} to {folder.removesuffix(f'/{head}') or '/'}: each file_name begins with {head}/ already"
            return f"remove {head}/ from each file_name: the images are in {folder} itself"
    for name in sorted(known):
        below = name.removesuffix(f"/{first}")
        if below != name and all(f"{below}/{other}" in known for other in missing):
            return f"set {setting} to {folder}/{below}, which has these images"
    for change, what in _SIMILAR.items():
        similar = {what(name): name for name in known}
        if all(what(name) in similar for name in missing):
            return f"{change}: {first} is there as {similar[what(first)]}"
    return f"restore the image files, or remove these images from the annotation file; {folder} has {_files(known)}"


def _files(known: Collection[str]) -> str:
    return f"{len(known)} files, such as {min(known)}"


_SIMILAR: dict[str, Callable[[str], str]] = {
    "write each file_name with the capital letters of the file": str.casefold,
    "write each file_name with the suffix of the file": lambda name: re.sub(r"\.\w+$", "", name),
    "write each file_name relative to the image folder": lambda name: name.replace("\\", "/").rpartition("/")[2],
}
"""In what way the names of files may differ, and how to read them so that they are equal."""
