"""Where the files of missing images are: what is proposed leads to one file for each image, and to no other way."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = ["advice_on_missing"]

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
_SHOWN = 5
_RELATIVE = "write each file_name relative to the image folder"


class _Way(NamedTuple):
    """What a user can do, and the file to which it leads for each missing image, in their order."""

    step: str
    files: tuple[str, ...]


def advice_on_missing(
    missing: Collection[str], present: Collection[str], *, named: Collection[str] = (), folder: str, setting: str
) -> str:
    """What to do about images that are not below the image folder.

    It says where their files lie, if only one way leads to all of them: another folder, or a similar name. If there are
    several ways, it lists files to which they lead.

    Args:
        missing: their names in the annotation file.
        present: the names of all files below ``folder``, relative to it.
        named: those of them that the annotation file names. If there is one, ``folder`` is the right folder.
        folder: the image folder.
        setting: the name of the setting that holds it.
    """
    images = frozenset(name for name in present if PurePosixPath(name).suffix.lower() in _SUFFIXES)
    if not images:
        what = ".jpg, .jpeg or .png files" if present else "files"
        return f"{folder} has no {what}: set {setting} to the folder of the images"
    names, known = sorted(missing), images.difference(named)
    movable = None if named else setting
    found: dict[tuple[str, ...], str] = {}
    for way in (*_above(names, known, folder, movable), *_below(names, known, folder, movable), *_renamed(names, known)):
        found.setdefault(way.files, way.step)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        name, files = next((name, some) for name, *some in zip(names, *found, strict=True) if len(set(some)) > 1)
        return (
            f"find out which file {name} is, since {folder} has {', '.join(sorted(set(files))[:_SHOWN])}; "
            f"then set {setting} to its folder, or write its name in the annotation file"
        )
    return f"restore the image files, or remove these images from the annotation file; {folder} has {_number(present)}"


def _number(present: Collection[str]) -> str:
    return f"{len(present)} files, such as {min(present)}"


def _above(names: Sequence[str], known: frozenset[str], folder: str, setting: str | None) -> Iterator[_Way]:
    """The names begin with folders that the files do not have; ``setting`` is None if the image folder is right."""
    for head in map(str, PurePosixPath(names[0]).parents[:-1]):
        files = tuple(name.removeprefix(f"{head}/") for name in names)
        if not all(name.startswith(f"{head}/") for name in names) or not known.issuperset(files):
            continue
        if setting and folder.endswith(f"/{head}"):
            above = folder.removesuffix(f"/{head}") or "/"
            yield _Way(f"set {setting} to {above}: each file_name begins with {head}/ already", files)
        else:
            yield _Way(f"remove {head}/ from each file_name: the images are in {folder} itself", files)
    yield from _ways(_RELATIVE, names, [[tail for tail in _tails(name) if tail in known] for name in names])


def _tails(name: str) -> list[str]:
    """The name with slashes, and without one or more leading folders."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _below(names: Sequence[str], known: frozenset[str], folder: str, setting: str | None) -> Iterator[_Way]:
    """The files are in folders that the names do not have: all in one folder, or in several."""
    files_of: dict[str, list[str]] = {name: [] for name in names}
    for file in sorted(known):
        for tail in _tails(file)[1:]:
            if tail in files_of:
                files_of[tail].append(file)
    heads = [file.removesuffix(f"/{names[0]}") for file in files_of[names[0]]] if setting else []
    whole = [head for head in heads if all(f"{head}/{name}" in known for name in names)]
    for head in whole:
        yield _Way(f"set {setting} to {folder}/{head}, which has these images", tuple(f"{head}/{name}" for name in names))
    if not whole:
        yield from _ways(_RELATIVE, names, list(files_of.values()))


def _renamed(names: Sequence[str], known: frozenset[str]) -> Iterator[_Way]:
    """The names differ from those of the files in capital letters or in the suffix."""
    for step, alike in _ALIKE.items():
        files_of: dict[str, list[str]] = {alike(name): [] for name in names}
        for file in sorted(known):
            if alike(file) in files_of:
                files_of[alike(file)].append(file)
        yield from _ways(step, names, [files_of[alike(name)] for name in names])


def _ways(step: str, names: Sequence[str], files: Sequence[Sequence[str]]) -> Iterator[_Way]:
    """The way to these files, which are several if a name has several files; none if a name has no file of its own."""
    if not all(files):
        return
    for number in range(min(max(map(len, files)), _SHOWN)):
        chosen = tuple(some[min(number, len(some) - 1)] for some in files)
        if len(set(chosen)) == len(chosen):
            yield _Way(f"{step}: {names[0]} is there as {chosen[0]}", chosen)


_ALIKE: dict[str, Callable[[str], str]] = {
    "write each file_name with the capital letters of the file": str.casefold,
    "write each file_name with the suffix of the file": lambda name: re.sub(r"\.\w+$", "", name),
}
"""In what way the names of files may differ, and how to read them so that they are equal."""
