"""Files and folders of a file system, and the one way to write a file: whole, synced, and renamed when it is complete."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path, PosixPath
from typing import Any, Self, TypeVar

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.facts import FileFacts, FileProblem, FileState, check_file, facts_of, sha256_of

__all__ = ["LocalPath", "write_atomic"]

_READ_BYTES = 1 << 20
_NOT_OF_ONE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EMFILE, errno.ENFILE)
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
T = TypeVar("T")
R = TypeVar("R")


class LocalPath(PosixPath):
    """A file or folder of a file system; the protocol ``StorePath`` describes the methods."""

    poll_seconds = 0.5
    listing_seconds = 0.0

    def state(self) -> FileState | None:
        try:
            found = self.stat()
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise
        return FileState(found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def blocks(self) -> Iterator[bytes]:
        with self.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                yield block

    def sha256(self) -> str:
        return sha256_of(self.blocks())

    def write_atomic(self, data: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
        write_atomic(self, data, exclusive=exclusive, durable=durable)

    def children(self) -> tuple[list[Self], list[Self]]:
        try:
            paths = sorted(self.iterdir())
        except OSError as error:
            if stray := self.not_a_folder():
                raise stray from error
            if isinstance(error, FileNotFoundError):
                return [], []
            raise
        is_folder = {path: path.is_dir() for path in paths}
        return [path for path in paths if is_folder[path]], [path for path in paths if not is_folder[path]]

    def files_below(self) -> dict[str, FileState]:
        found = {}
        for folder, folders, files in os.walk(self):
            # A link to a folder is listed like a file, so that verify reports it, and is not followed.
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*files, *links):
                path = Path(folder) / name
                with suppress(FileNotFoundError):
                    facts = path.lstat()
                    found[path.relative_to(self).as_posix()] = FileState(facts.st_size, facts.st_mtime)
        return found

    def listing(self) -> list[tuple[str, int]]:
        found = []
        for folder, names, files in os.walk(self):
            names.sort()
            below = Path(folder).relative_to(self)
            found += [(str(below / name), (Path(folder) / name).stat().st_size) for name in sorted(files)]
        return found

    def mtime_ns(self) -> int:
        return self.stat().st_mtime_ns

    def usage(self) -> FileState:
        below = (Path(folder) / name for folder, folders, files in os.walk(self) for name in (*folders, *files))
        size, changed = 0, 0.0
        for path in (self, *below):
            with suppress(FileNotFoundError):
                found = path.lstat()
                changed = max(changed, found.st_mtime)
                # A file with a second name is also a file of the entry that has adopted it.
                size += found.st_size if found.st_nlink == 1 and not stat.S_ISDIR(found.st_mode) else 0
        return FileState(size, changed)

    def not_a_folder(self) -> StoreError | None:
        for path in (self.parent.parent, self.parent, self):
            if not os.path.lexists(path) or path.is_dir():
                continue
            if path.is_symlink() and not path.is_file():
                return StoreError(
                    f"{path} is a link that leads nowhere",
                    allowed="a link to an existing folder on a mounted disk, or no link",
                    remedy=Remedy("shell", text=f"ls -l {shlex.quote(str(path))}"),
                )
            return _misplaced(path, "a file", "a folder")
        return None

    def not_a_file(self) -> StoreError | None:
        return _misplaced(self, "a folder", "a file") if self.is_dir() else None

    def make_folder(self) -> None:
        self.mkdir()

    def make_folders(self) -> None:
        try:
            self.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise self.not_a_folder() or error from error

    def make_writable(self) -> None:
        self.mkdir(parents=True, exist_ok=True)
        if not os.access(self, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable", str(self))

    def clear_way(self, name: str) -> None:
        path = self / name
        for folder in [self / parent for parent in reversed(Path(name).parents[:-1])]:
            # A link to a folder stays: it may lead to another disk.
            if not folder.is_dir():
                folder.unlink(missing_ok=True)
            folder.mkdir(exist_ok=True)
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)

    def remove_tree(self) -> None:
        shutil.rmtree(self, ignore_errors=True)

    def remove_if_empty(self) -> None:
        with suppress(OSError):
            self.rmdir()

    def move_to(self, target: Self) -> None:
        self.replace(target)

    def link_as(self, target: Self) -> None:
        target.hardlink_to(self)

    def sync_files(self, names: Iterable[str]) -> None:
        folders = {self}
        for name in names:
            with (self / name).open("rb") as stream:
                os.fsync(stream.fileno())
            folders |= {self / parent for parent in Path(name).parents}
        for folder in sorted(folders, reverse=True):
            folder.sync_folder()

    def sync_folder(self) -> None:
        _sync_folder(self)

    def check_files(self, files: Mapping[str, FileFacts]) -> dict[str, FileProblem]:
        return {name: problem for name, facts in files.items() if (problem := check_file(self / name, facts))}

    def facts_below(self, names: Sequence[str], stated: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
        return {name: facts_of(self / name) for name in sorted(names)}

    def mirror(self) -> LocalPath:
        return self

    def fetch(self, *, again: bool = False) -> LocalPath:
        return self

    def upload(self, names: Iterable[str]) -> None:
        """Do nothing: every node sees the files already."""

    def file(self, facts: Callable[[], FileFacts], remedy: Remedy | None = None) -> LocalPath:
        return self

    def folder(self, files: Callable[[], Mapping[str, FileFacts]], remedy: Remedy | None = None) -> LocalPath:
        return self

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(function, items)

    def impatient(self) -> Self:
        return self

    def fault_as_home(self) -> str:
        return ""

    def can_be_folder(self) -> bool:
        return next(path for path in (self, *self.parents) if path.exists()).is_dir()

    def contains(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.resolve())

    def blames_file(self, error: OSError) -> bool:
        return error.errno not in _NOT_OF_ONE_FILE

    def removal_command(self) -> str:
        return f"rm -r {shlex.quote(str(self))}"

    def in_file_system(self, make: Callable[[str], Any]) -> dict[str, Any]:
        return {"storage_path": str(self)}


def write_atomic(path: Path, data: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
    """Write ``data`` under ``path`` so that a reader sees all of it or none.

    With ``exclusive`` the file must not exist yet: a hard link is created atomically on local disks and on NFS, so that of
    two writers one wins and the other gets ``FileExistsError``. Without ``durable`` a power failure may lose the file.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        if exclusive:
            path.hardlink_to(partial)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _misplaced(path: Path, found: str, expected: str) -> StoreError:
    free = next(aside for number in count() if not os.path.lexists(aside := f"{path}.aside{number or ''}"))
    return StoreError(
        f"{path} is {found}, and {expected} belongs there",
        allowed=f"{expected}; odkd does not delete what it did not write, so move it to another name",
        remedy=Remedy("shell", text=f"mv {shlex.quote(str(path))} {shlex.quote(free)}"),
    )
