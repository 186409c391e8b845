"""Objects of a bucket; the client retries failed requests by itself, for up to three minutes.

An exclusive write uses If-None-Match (S3) or a generation precondition (GCS). Errors become those of files: ``OSError`` and its
children.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.facts import FileFacts, FileProblem, FileState, difference, facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.node_cache import RemoteFile, RemoteFolder, cache_root, in_threads

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from storage_schemas.paths.path import StorePath

__all__ = ["SCHEMES", "BucketPath"]

SCHEMES = ("s3", "gs")
_BEGUN = ".begun"
_SHORT, _LONG = 10.0, 300.0
"""Seconds after which a request is taken to hang: one for a few bytes, and one that may move a large object."""
_OF_ONE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, order=True)
class BucketPath:
    """The object ``key`` in ``bucket`` (``s3://name``), or the prefix of other keys; ``LocalPath`` describes the methods."""

    bucket: str
    key: str
    listing_seconds: ClassVar[float] = 5.0

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> BucketPath:
        return BucketPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def parents(self) -> tuple[BucketPath, ...]:
        return (self.parent, *self.parent.parents) if self.key else ()

    def with_name(self, name: str) -> BucketPath:
        return self.parent / name

    def is_absolute(self) -> bool:
        return True

    def exists(self) -> bool:
        return self.state() is not None

    is_file = exists

    def is_dir(self) -> bool:
        return next(self._listed(), None) is not None

    def state(self) -> FileState | None:
        try:
            with self._client(seconds=_SHORT) as client:
                return _state(client.head(self.key))
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        with self._client() as client:
            return bytes(client.get(self.key).bytes())

    def blocks(self) -> Iterator[bytes]:
        with self._client() as client:
            yield from map(bytes, client.get(self.key).stream())

    def write_atomic(self, data: bytes | Path, *, exclusive: bool = False, durable: bool = True) -> None:
        """Write the whole object from memory or from a file."""
        with self._client(seconds=_LONG if durable else _SHORT) as client:
            client.put(self.key, data, mode="create" if exclusive else "overwrite")

    def link_as(self, target: StorePath) -> None:
        assert isinstance(target, BucketPath)
        with self._client() as client:
            client.copy(self.key, target.key)

    def move_to(self, target: StorePath) -> None:
        self.link_as(target)
        self.unlink()

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Delete the object; the answer does not say whether it existed."""
        assert missing_ok
        with suppress(FileNotFoundError), self._client() as client:
            client.delete(self.key)

    def is_filled(self) -> bool:
        """No: every node asks the same server, so there is nothing to compare between nodes."""
        return False

    def children(self) -> tuple[list[BucketPath], list[BucketPath]]:
        with self._client() as client:
            found = client.list_with_delimiter(self.key or None)
        folders = [BucketPath(self.bucket, key.rstrip("/")) for key in found["common_prefixes"]]
        return sorted(folders), sorted(BucketPath(self.bucket, facts["path"]) for facts in found["objects"])

    def files_below(self) -> dict[str, FileState]:
        start = len(self.key) + 1 if self.key else 0
        return {facts["path"][start:]: _state(facts) for facts in self._listed()}

    def listing(self) -> list[tuple[str, int]]:
        return sorted((name, state.size) for name, state in self.files_below().items())

    def usage(self) -> FileState:
        own = self.state()
        states = [own] if own else list(self.files_below().values())
        return FileState(sum(state.size for state in states), max((state.changed for state in states), default=0.0))

    def not_a_folder(self) -> StoreError | None:
        """None: a bucket has no folders, so nothing is in their way, and none is made or deleted."""
        return None

    make_folders = rmdir = not_a_folder

    def clear_way(self, name: str) -> None:
        """Do nothing: an object is overwritten."""

    def make_folder(self) -> None:
        self.mirror().mkdir(parents=True, exist_ok=True)
        (self / _BEGUN).write_atomic(b"")

    def remove_tree(self) -> None:
        with suppress(OSError):
            # One by one: the client does not retry a request that deletes many objects.
            list(in_threads(lambda name: (self / name).unlink(), self.files_below()))
        self.mirror().remove_tree()

    def check_files(self, files: Mapping[str, FileFacts]) -> dict[str, FileProblem]:
        states = self.files_below()
        found = {name: FileFacts(states[name].size, facts.sha256) for name, facts in files.items() if name in states}
        return {name: problem for name, facts in files.items() if (problem := difference(found.get(name), facts))}

    def share(self, names: Collection[str], *, shared: Collection[str] = ()) -> dict[str, FileFacts]:
        new = [name for name in names if name not in shared]
        list(in_threads(lambda name: (self / name).write_atomic(self.mirror() / name), new))
        return {name: facts_of(self.mirror() / name) for name in new}

    def mirror(self) -> LocalPath:
        return LocalPath(cache_root() / self.bucket.replace("://", "/") / self.key)

    def fetch(self, *, again: bool = False) -> LocalPath:
        target = self.mirror()
        if again or not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_atomic(self.read_bytes(), durable=False)
        return target

    def file(self, facts: FileFacts, remedy: Remedy | None = None) -> RemoteFile:
        return RemoteFile(self, facts, remedy)

    def folder(self, files: Mapping[str, FileFacts], remedy: Remedy | None = None) -> RemoteFolder:
        return RemoteFolder(self, tuple(files.items()), remedy)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return in_threads(function, items)

    def in_file_system(self, make: Callable[[str], Any]) -> dict[str, Any]:
        return {"storage_path": self.key, "storage_filesystem": make(self.bucket)}

    def blames_file(self, error: OSError) -> bool:
        return error.errno in _OF_ONE_FILE

    def removal_command(self) -> str:
        tool = "aws s3 rm" if self.bucket.startswith("s3:") else "gcloud storage rm"
        return f"{tool} --recursive {shlex.quote(str(self))}"

    def _listed(self) -> Iterator[Any]:
        with self._client() as client:
            for some in client.list(self.key or None):
                yield from some

    @contextmanager
    def _client(self, *, seconds: float = _LONG) -> Iterator[ObjectStore]:
        """The client, whose requests may take ``seconds``; its errors become those of files, with a message of one line."""
        try:
            from obstore.exceptions import AlreadyExistsError, BaseError
        except ImportError as error:
            raise StoreError(
                f"{self.bucket} is object storage, and the library for it is not installed",
                allowed="a folder, or odkd with the extra 's3' on every node",
                remedy=Remedy("shell", text="pip install 'odkd[s3]'"),
            ) from error
        try:
            yield _connect(self.bucket, seconds)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self)) from error
        except AlreadyExistsError as error:
            raise FileExistsError(errno.EEXIST, "the object exists already", str(self)) from error
        except (BaseError, ValueError) as error:
            # A ValueError means that the name is impossible, such as one with an empty part.
            number = errno.EINVAL if isinstance(error, ValueError) else errno.EIO
            raise OSError(number, str(error).partition("\n")[0], str(self)) from error


def _state(found: Any) -> FileState:  # noqa: ANN401 (obstore's ObjectMeta is only for type checkers)
    return FileState(found["size"], found["last_modified"].timestamp())


@lru_cache(maxsize=8)
def _connect(bucket: str, seconds: float) -> ObjectStore:
    """The client of a bucket; credentials, region and endpoint come from the variables of every AWS or Google client."""
    from obstore.store import from_url

    # An endpoint without TLS is allowed only if the user names one.
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options: Any = {"timeout": timedelta(seconds=seconds), "connect_timeout": timedelta(seconds=_SHORT), "allow_http": plain}
    return from_url(bucket, client_options=options)
