"""Where things lie: on a file system that all nodes see, or in a bucket; and what both can do.

What lies in a bucket is written and read through a mirror, a folder of the node itself. Zarr, Parquet and libraries that load
weights see plain files; and nothing is read from a mirror before its size and sha256 were seen to be right.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.bucket import SCHEMES, BucketPath, ObjectFacts

__all__ = [
    "StorePath",
    "children",
    "files_below",
    "folder_in_the_way",
    "in_the_way",
    "in_threads",
    "link",
    "make_folder",
    "make_folders",
    "mirror",
    "mirror_root",
    "move",
    "parse_path",
    "remove_tree",
    "upload",
]

StorePath = Path | BucketPath

_BEGUN = ".begun"
_THREADS = 16
T = TypeVar("T")
R = TypeVar("R")


def parse_path(text: str) -> StorePath:
    """The place that a text names: ``s3://bucket/beginning`` and the like, or else a path."""
    scheme, is_url, rest = text.partition("://")
    if not is_url or scheme not in SCHEMES:
        return Path(text)
    bucket, _, key = rest.partition("/")
    return BucketPath(f"{scheme}://{bucket}", "/".join(part for part in key.split("/") if part))


def mirror_root() -> Path:
    """The folder of this node for what lies in buckets: ``$ODKD_CACHE``, else ``~/.cache/odkd``.

    The environment is asked here and nowhere else, since nodes may have their fast disks in different places.
    """
    return Path(os.environ.get("ODKD_CACHE", "~/.cache/odkd")).expanduser()


def mirror(place: StorePath) -> Path:
    """Where on this node a place is written and read: itself on a file system, else below ``mirror_root``."""
    if isinstance(place, Path):
        return place
    return mirror_root() / place.bucket.replace("://", "/") / place.key


def make_folder(place: StorePath) -> None:
    """Make a folder that is seen although it is empty."""
    mirror(place).mkdir(parents=isinstance(place, BucketPath), exist_ok=isinstance(place, BucketPath))
    if isinstance(place, BucketPath):
        (place / _BEGUN).put(b"")


def children(place: StorePath) -> tuple[list[StorePath], list[StorePath]]:
    """The folders and the files right below a place; none where it is not there.

    Raises:
        StoreError: as ``in_the_way`` gives it.
        OSError: this user may not look.
    """
    if isinstance(place, BucketPath):
        folders, files = place.children()
        return [*folders], [*files]
    try:
        paths = sorted(place.iterdir())
    except OSError as error:
        if stray := in_the_way(place):
            raise stray from error
        if isinstance(error, FileNotFoundError):
            return [], []
        raise
    is_folder = {path: path.is_dir() for path in paths}
    return [path for path in paths if is_folder[path]], [path for path in paths if not is_folder[path]]


def in_the_way(folder: StorePath) -> StoreError | None:
    """The error of a file, or of a link that leads nowhere, where a ``folder`` of a home or one of two above it belongs.

    What it is nobody knows, so it is not to be lost; and behind a link there may be all that is looked for.
    """
    if isinstance(folder, BucketPath):
        return None
    for path in (folder.parent.parent, folder.parent, folder):
        if not os.path.lexists(path) or path.is_dir():
            continue
        if path.is_symlink() and not path.is_file():
            return StoreError(
                f"{path} is a link that leads nowhere",
                allowed="the folder that it leads to, on a disk that is there; or to remove the link",
                remedy=Remedy("shell", text=f"ls -l {shlex.quote(str(path))}"),
            )
        return _misplaced(path, "a file", "a folder")
    return None


def folder_in_the_way(file: StorePath) -> StoreError | None:
    """The error of a folder where a ``file`` of a home belongs."""
    return _misplaced(file, "a folder", "a file") if isinstance(file, Path) and file.is_dir() else None


def _misplaced(path: Path, is_there: str, belongs: str) -> StoreError:
    free = next(aside for number in count() if not os.path.lexists(aside := f"{path}.aside{number or ''}"))
    return StoreError(
        f"{path} is {is_there}, and {belongs} belongs there",
        allowed="what is there under another name, under which it does no harm",
        remedy=Remedy("shell", text=f"mv {shlex.quote(str(path))} {shlex.quote(free)}"),
    )


def make_folders(folder: StorePath) -> None:
    """Make a folder and those above it, unless they are there; in a bucket there is nothing to be made.

    Raises:
        StoreError: as ``in_the_way`` gives it.
        OSError: this user may not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise in_the_way(folder) or error from error


def files_below(place: StorePath) -> dict[str, ObjectFacts]:
    """Everything below a place that is no folder, by its name from there on; what vanishes meanwhile is left out."""
    if isinstance(place, BucketPath):
        return place.below()
    found = {}
    for folder, folders, files in os.walk(place):
        # A link to a folder is no folder to go into, and no file that a manifest names either.
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*files, *links):
            path = Path(folder) / name
            with suppress(FileNotFoundError):
                facts = path.lstat()
                found[path.relative_to(place).as_posix()] = ObjectFacts(facts.st_size, facts.st_mtime)
    return found


def remove_tree(place: StorePath) -> None:
    """Remove a folder as far as that goes, and this node's mirror of it."""
    if isinstance(place, BucketPath):
        with suppress(OSError):
            # One by one: a request to remove many at once is not repeated when it fails.
            list(in_threads(lambda name: (place / name).unlink(), place.below()))
    shutil.rmtree(mirror(place), ignore_errors=True)


def move(source: StorePath, target: StorePath) -> None:
    """Give a file another name; both lie in one store."""
    if isinstance(source, BucketPath) and isinstance(target, BucketPath):
        source.replace(target)
    else:
        _path(source).replace(_path(target))


def link(source: StorePath, target: StorePath) -> None:
    """Give a file a second name, in a bucket by a copy; both lie in one store."""
    if isinstance(source, BucketPath) and isinstance(target, BucketPath):
        source.copy_to(target)
    else:
        _path(target).hardlink_to(_path(source))


def _path(place: StorePath) -> Path:
    assert isinstance(place, Path), "one of two names in a store is in a bucket, and the other is not"
    return place


def upload(place: StorePath, names: Iterable[str]) -> None:
    """Bring files that this node has written (``names`` below the mirror of ``place``) to where all nodes see them."""
    if isinstance(place, BucketPath):
        list(in_threads(lambda name: (place / name).put(mirror(place) / name), names))


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """As ``map``, with several at the same time: what takes long in a bucket is the way there."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="odkd-objects") as pool:
        yield from pool.map(function, items)
