"""Files and folders of a file system, and the one way to write a file: whole, synced, and renamed when it is complete."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, Self, TypeVar

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.facts import FileFacts, FileProblem, FileState, check_file, facts_of

if TYPE_CHECKING:
    from storage_schemas.paths.path import StorePath

__all__ = ["LocalPath"]

_READ_BYTES = 1 << 20
_NOT_OF_ONE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EMFILE, errno.ENFILE)
T = TypeVar("T")
R = TypeVar("R")


class LocalPath(PosixPath):
    """A file or folder of a file system. Errors are ``OSError`` and its children, here and for a bucket."""

    listing_seconds = 0.0
    """How long one listing may answer for single requests; 0 where a request costs next to nothing."""

    def state(self) -> FileState | None:
        """Size and time of change of the file; None if there is none."""
        try:
            found = self.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileState(found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def blocks(self, start: int = 0, size: int = sys.maxsize) -> Iterator[bytes]:
        """The file, or ``size`` bytes of it from ``start`` on, block by block."""
        with self.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(min(_READ_BYTES, size)):
                yield block
                size -= len(block)

    def write_blocks(self, blocks: Iterable[bytes], facts: FileFacts) -> FileProblem | None:
        """Write a new file and the folders above it; return how it differs from ``facts``, if it does."""
        self.parent.mkdir(parents=True, exist_ok=True)
        with self.open("xb") as stream:
            try:
                stream.writelines(blocks)
            except FileNotFoundError:
                return FileProblem("missing", "is missing")
        return check_file(self, facts)

    def write_atomic(self, data: bytes, *, exclusive: bool = False, durable: bool = True) -> None:
        """Write the file so that a reader sees all of it or none.

        With ``exclusive`` the file must not exist yet: a hard link is created atomically on local disks and on NFS, so that of
        two writers one wins and the other gets ``FileExistsError``. Without ``durable`` a power failure may lose the file,
        which must be small: in a bucket a request that hangs is repeated after seconds.
        """
        partial = self.with_name(f".{self.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            with partial.open("xb") as stream:
                stream.write(data)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            if exclusive:
                self.hardlink_to(partial)
            else:
                partial.replace(self)
        finally:
            partial.unlink(missing_ok=True)
        if durable:
            _sync_folder(self.parent)

    def is_filled(self) -> bool:
        """Whether it is a folder with something in it: a mount that is missing leaves none, or an empty one."""
        try:
            with os.scandir(self) as below:
                return next(below, None) is not None
        except (FileNotFoundError, NotADirectoryError):
            return False

    def children(self) -> tuple[list[Self], list[Self]]:
        """The folders and the files directly below; none if there is no such folder.

        Raises:
            StoreError: as ``not_a_folder`` describes.
            OSError: this user may not list it.
        """
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
        """Every file below, by its relative name; files that vanish meanwhile are left out."""
        # A link to a folder is listed like a file, so that verify reports it, and is not followed.
        return {
            path.relative_to(self).as_posix(): FileState(found.st_size, found.st_mtime)
            for path, found in self._below()
            if not stat.S_ISDIR(found.st_mode)
        }

    def _below(self, *, follow: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
        """The file, or the folder and everything below it, in the order in which keys hash files; ``follow`` follows links."""
        paths: list[Path] = [self]
        for folder, folders, files in os.walk(self):
            folders.sort()
            paths += [Path(folder) / name for name in (*folders, *sorted(files))]
        for path in paths:
            try:
                yield path, path.stat(follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise  # A failing disk must not change a key.

    def listing(self) -> list[tuple[str, int]]:
        """Relative names and sizes of all files below except links that lead nowhere, in the order in which keys hash them."""
        found = self._below(follow=True)
        return [(path.relative_to(self).as_posix(), facts.st_size) for path, facts in found if not stat.S_ISDIR(facts.st_mode)]

    def usage(self) -> FileState:
        """The bytes that deleting a file or folder frees, and when anything in it last changed."""
        found = [found for _, found in self._below()]
        # A file with a second name is also a file of the entry that has adopted it.
        sizes = (each.st_size for each in found if each.st_nlink == 1 and not stat.S_ISDIR(each.st_mode))
        return FileState(sum(sizes), max((each.st_mtime for each in found), default=0.0))

    def not_a_folder(self) -> StoreError | None:
        """The error if a file or a dangling link lies where this folder, or one above it, belongs."""
        for path in (*reversed(self.parents), self):
            if not os.path.lexists(path) or path.is_dir():
                continue
            if path.is_symlink() and not path.is_file():
                return StoreError(
                    f"{path} is a link that leads nowhere",
                    allowed="a link to an existing folder on a mounted disk, or no link",
                    remedy=Remedy("shell", text=f"ls -l {shlex.quote(str(path))}"),
                )
            free = next(aside for number in count() if not os.path.lexists(aside := f"{path}.aside{number or ''}"))
            return StoreError(
                f"{path} is a file, and a folder belongs there",
                allowed="a folder; odkd does not delete what it did not write, so move it to another name",
                remedy=Remedy("shell", text=f"mv {shlex.quote(str(path))} {shlex.quote(free)}"),
            )
        return None

    def make_folder(self) -> None:
        """Make a new folder that others see although it is empty."""
        self.mkdir()

    def make_folders(self) -> None:
        """Make the folder and those above it, where they do not exist; raises ``not_a_folder()``."""
        try:
            self.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise self.not_a_folder() or error from error

    def clear_way(self, name: str) -> None:
        """Delete what keeps a file from being moved to the name ``name`` below: a folder of that name, a file above it."""
        for folder in [self / parent for parent in reversed(Path(name).parents[:-1])]:
            # A link to a folder stays: it may lead to another disk.
            if not folder.is_dir():
                folder.unlink(missing_ok=True)
            folder.mkdir(exist_ok=True)
        (self / name).remove_tree()

    def remove_tree(self) -> None:
        """Delete the folder as far as possible, and this node's mirror of it."""
        shutil.rmtree(self, ignore_errors=True)

    def move_to(self, target: StorePath) -> None:
        """Rename the file durably; both paths lie in one store."""
        self.replace(str(target))
        _sync_folder(Path(str(target)).parent)

    def link_as(self, target: StorePath) -> None:
        """Give the file a second name (in a bucket a copy); both paths lie in one store."""
        Path(str(target)).hardlink_to(self)

    def sync_files(self, names: Iterable[str]) -> None:
        """Make the files ``names`` below durable, and every folder on the way to them."""
        folders = {self}
        for name in names:
            with (self / name).open("rb") as stream:
                os.fsync(stream.fileno())
            folders |= {self / parent for parent in Path(name).parents}
        for folder in sorted(folders, reverse=True):
            _sync_folder(folder)

    def check_files(self, files: Mapping[str, FileFacts]) -> dict[str, FileProblem]:
        """The problems of ``files`` below, by name; in a bucket only sizes are compared, and ``fetch`` verifies the rest."""
        return {name: problem for name, facts in files.items() if (problem := check_file(self / name, facts))}

    def share(self, names: Collection[str], *, shared: Collection[str] = ()) -> dict[str, FileFacts]:
        """Make files that this node wrote (``names`` below the mirror) durable and visible to all nodes.

        Return the facts of all but those that were ``shared`` before.
        """
        self.sync_files(names)
        return {name: facts_of(self / name) for name in names if name not in shared}

    def mirror(self) -> LocalPath:
        """Where this node writes and reads it: itself on a file system, else a path in the node cache."""
        return self

    def fetch(self, *, again: bool = False) -> LocalPath:
        """The file on this node, not verified; downloaded from a bucket if this node has no copy, or ``again``."""
        return self

    def file(self, facts: FileFacts, remedy: Remedy | None = None) -> LocalPath:
        """The file for another process, which fetches and verifies it; ``remedy`` is what to do if it is damaged."""
        return self

    def folder(self, files: Mapping[str, FileFacts], remedy: Remedy | None = None) -> LocalPath:
        """The folder with these files for another process; see ``file``."""
        return self

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Like ``map``; in threads where each call waits for a bucket."""
        return map(function, items)

    def in_file_system(self, make: Callable[[str], Any]) -> dict[str, Any]:
        """The arguments of Ray's ``RunConfig`` for this path; ``make`` builds the file system of a bucket from its name."""
        return {"storage_path": str(self)}

    def blames_file(self, error: OSError) -> bool:
        """True if the error says that one file is bad; False if the storage, or this node's disk, is."""
        return error.errno not in _NOT_OF_ONE_FILE

    def removal_command(self) -> str:
        """The shell command that deletes the folder."""
        return f"rm -r {shlex.quote(str(self))}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
