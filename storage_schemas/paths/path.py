"""The protocol of all paths that odkd reads and writes, and ``parse_path``, which chooses the class once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.bucket import SCHEMES, BucketPath
from storage_schemas.paths.facts import FileFacts, FileProblem, FileState
from storage_schemas.paths.local import LocalPath

__all__ = ["File", "Folder", "StorePath", "parse_path"]

T = TypeVar("T")
R = TypeVar("R")


class Folder(Protocol):
    """A folder of the store as it is handed to another process."""

    def fetch(self) -> LocalPath:
        """The path on this node, to be read; out of a bucket its files are downloaded and verified.

        Raises:
            CorruptEntryError: an object is missing, or differs from what its manifest describes.
        """

    def __hash__(self) -> int: ...


class File(Folder, Protocol):
    """A file of the store as it is handed to another process."""

    @property
    def suffix(self) -> str:
        """The end of its name, such as ``.onnx``."""


@runtime_checkable
class StorePath(Protocol):
    """A path below a home: in a folder that all nodes see, or in a bucket.

    Files of a bucket are written and read through a mirror, a folder of the node cache: Zarr, Parquet and the libraries that
    load weights see plain files. Errors are ``OSError`` and its children for both.
    """

    @property
    def poll_seconds(self) -> float:
        """How long to wait between two looks at something that changes."""

    @property
    def listing_seconds(self) -> float:
        """How long one listing may answer for single requests; 0 where a request costs next to nothing."""

    @property
    def name(self) -> str:
        """The last part."""

    @property
    def parent(self) -> Self:
        """The folder that holds it."""

    @property
    def parents(self) -> Sequence[Self]:
        """All folders above it, the nearest first."""

    def __truediv__(self, name: str, /) -> Self: ...

    def __hash__(self) -> int: ...

    def with_name(self, name: str, /) -> Self:
        """Another path in the same folder."""

    def is_absolute(self) -> bool:
        """True if it does not depend on the working directory."""

    def absolute(self) -> Self:
        """The absolute path."""

    def expanduser(self) -> Self:
        """The path with ``~`` replaced by the user's home folder."""

    def exists(self) -> bool:
        """True if there is a file (or a folder of a file system)."""

    def is_file(self) -> bool:
        """True if there is a file."""

    def is_dir(self) -> bool:
        """True if there is a folder, or objects below it."""

    def state(self) -> FileState | None:
        """Size and time of change of the file; None if there is none."""

    def read_bytes(self) -> bytes:
        """The whole file."""

    def blocks(self) -> Iterator[bytes]:
        """The file block by block."""

    def sha256(self) -> str:
        """The sha256 of the file's bytes, in hexadecimal."""

    def write_atomic(self, data: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
        """Write the file so that a reader sees all of it or none; see ``local.write_atomic``."""

    def unlink(self, *, missing_ok: bool = ...) -> None:
        """Delete the file."""

    def children(self) -> tuple[list[Self], list[Self]]:
        """The folders and the files directly below; none if there is no such folder.

        Raises:
            StoreError: as ``not_a_folder`` describes.
            OSError: this user may not list it.
        """

    def files_below(self) -> dict[str, FileState]:
        """Every file below, by its relative name; files that vanish meanwhile are left out."""

    def listing(self) -> list[tuple[str, int]]:
        """Relative names and sizes of all files below, in the order in which keys hash them; links are followed."""

    def mtime_ns(self) -> int:
        """When names in the folder last changed; 0 in a bucket, which does not know."""

    def usage(self) -> FileState:
        """The bytes that removing a file or folder frees, and when anything in it last changed."""

    def not_a_folder(self) -> StoreError | None:
        """The error if a file or a dangling link lies where this folder, or one of the two above it, belongs."""

    def not_a_file(self) -> StoreError | None:
        """The error if a folder lies where this file belongs."""

    def make_folder(self) -> None:
        """Make a new folder that others see although it is empty."""

    def make_folders(self) -> None:
        """Make the folder and those above it, where they do not exist.

        Raises:
            StoreError: as ``not_a_folder`` describes.
            OSError: this user may not make it.
        """

    def make_writable(self) -> None:
        """Make the folder if needed and see that this user may write into it; of a bucket see that it answers.

        Raises:
            OSError: this user may not.
        """

    def clear_way(self, name: str) -> None:
        """Delete what keeps the file ``name`` below from being written: a folder or link of that name, a file above it."""

    def remove_tree(self) -> None:
        """Delete the folder as far as possible, and this node's mirror of it."""

    def remove_if_empty(self) -> None:
        """Delete the folder if nothing is in it."""

    def move_to(self, target: Self, /) -> None:
        """Rename the file; both paths lie in one store."""

    def link_as(self, target: Self, /) -> None:
        """Give the file a second name (in a bucket a copy); both paths lie in one store."""

    def sync_files(self, names: Iterable[str]) -> None:
        """Make the files ``names`` below durable, and every folder on the way to them."""

    def sync_folder(self) -> None:
        """Make the names in the folder durable: otherwise a power failure may undo a rename."""

    def check_files(self, files: Mapping[str, FileFacts]) -> dict[str, FileProblem]:
        """The problems of ``files`` below, by name; in a bucket only sizes are compared, and ``fetch`` verifies the rest."""

    def facts_below(self, names: Sequence[str], stated: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
        """The facts of the files ``names`` below; the sha256 of an uploaded object is taken from ``stated``.

        Raises:
            FileNotFoundError: one is missing.
        """

    def mirror(self) -> LocalPath:
        """Where this node writes and reads it: itself on a file system, else a path in the node cache."""

    def fetch(self, *, again: bool = False) -> LocalPath:
        """The file on this node, which the caller checks; downloaded if this node has no copy, or ``again``."""

    def upload(self, names: Iterable[str]) -> None:
        """Bring files that this node wrote (``names`` below the mirror) to where all nodes see them."""

    def file(self, facts: Callable[[], FileFacts], remedy: Remedy | None = None) -> File:
        """The file for another process, which fetches and verifies it; ``remedy`` is what to do if it is damaged."""

    def folder(self, files: Callable[[], Mapping[str, FileFacts]], remedy: Remedy | None = None) -> Folder:
        """The folder with these files for another process; see ``file``."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Like ``map``; in threads where each call waits for a bucket."""

    def impatient(self) -> Self:
        """The same path with requests that give up after seconds: for what is repeated soon anyway."""

    def fault_as_home(self) -> str:
        """Why the path cannot be a home, as the end of a sentence; empty if it can."""

    def can_be_folder(self) -> bool:
        """False if a file lies at it or at a folder above it."""

    def contains(self, path: Path) -> bool:
        """True if a path of this machine lies below it."""

    def blames_file(self, error: OSError) -> bool:
        """True if the error says that one file is bad; False if the storage, or this node's disk, is."""

    def removal_command(self) -> str:
        """The shell command that deletes the folder."""

    def in_file_system(self, make: Callable[[str], Any]) -> dict[str, Any]:
        """The arguments of Ray's ``RunConfig`` for this path; ``make`` builds the file system of a bucket from its name."""


def parse_path(text: str) -> StorePath:
    """The path that a text names: ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or else a path of the file system."""
    scheme, is_url, rest = text.partition("://")
    if not is_url or scheme not in SCHEMES:
        return LocalPath(text)
    bucket, _, key = rest.partition("/")
    return BucketPath(f"{scheme}://{bucket}", "/".join(part for part in key.split("/") if part))
