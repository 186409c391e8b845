"""Objects of a bucket, with the few operations of ``pathlib.Path`` that the store is made of.

Created exclusively by If-None-Match (S3) or a generation's precondition (GCS). Errors are those of files: ``OSError`` and its
children. The client retries by itself what can be retried.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage_schemas.errors import Remedy, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["SCHEMES", "BucketPath", "ObjectFacts"]

SCHEMES = ("s3", "gs")
_RETRIES: Any = {
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}


@dataclass(frozen=True)
class ObjectFacts:
    """What a listing says of an object: bytes, and when it was written last (seconds since 1970)."""

    size: int
    changed: float


@dataclass(frozen=True, order=True)
class BucketPath:
    """The place ``key`` in ``bucket`` (``s3://name``): an object, or the beginning of the keys of others, as a folder is."""

    bucket: str
    key: str
    hurried: bool = field(default=False, compare=False)
    """Whether to give up after seconds rather than minutes: for what is asked, or written, again soon."""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> BucketPath:
        """The folder it lies in; the bucket itself is its own."""
        return BucketPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def parents(self) -> tuple[BucketPath, ...]:
        """All folders it lies in, the nearest first."""
        return (self.parent, *self.parent.parents) if self.key else ()

    def with_name(self, name: str) -> BucketPath:
        """Another place beside it."""
        return self.parent / name

    def in_a_hurry(self) -> BucketPath:
        """The same place, ``hurried``."""
        return replace(self, hurried=True)

    def exists(self) -> bool:
        """True if there is an object."""
        return self.facts() is not None

    is_file = exists

    def is_dir(self) -> bool:
        """True if there are objects below it."""
        return next(self._listed(), None) is not None

    def mkdir(self, **_: bool) -> None:
        """Nothing: a bucket has no folders."""

    def facts(self) -> ObjectFacts | None:
        """Of the object; None if there is none."""
        import obstore

        try:
            with self._errors():
                return _facts(obstore.head(self._store, self.key))
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """All of the object."""
        import obstore

        with self._errors():
            return bytes(obstore.get(self._store, self.key).bytes())

    def blocks(self) -> Iterator[bytes]:
        """The object, block by block."""
        import obstore

        with self._errors():
            for block in obstore.get(self._store, self.key).stream():
                yield bytes(block)

    def sha256(self) -> str:
        """Of the object's bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def put(self, data: bytes | Path, *, exclusive: bool = False) -> None:
        """Write the object whole, from memory or from a file; with ``exclusive`` it must not be there yet."""
        import obstore

        with self._errors():
            obstore.put(self._store, self.key, data, mode="create" if exclusive else "overwrite")

    def copy_to(self, target: BucketPath) -> None:
        """Copy the object within its bucket, without its bytes coming here."""
        import obstore

        assert self.bucket == target.bucket
        with self._errors():
            obstore.copy(self._store, self.key, target.key)

    def replace(self, target: BucketPath) -> None:
        """Move the object."""
        self.copy_to(target)
        self.unlink()

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Remove the object; nobody can tell whether there was one."""
        import obstore

        assert missing_ok
        try:
            with self._errors():
                obstore.delete(self._store, self.key)
        except FileNotFoundError:
            return

    def children(self) -> tuple[list[BucketPath], list[BucketPath]]:
        """The folders and the objects right below it."""
        import obstore

        with self._errors():
            found = obstore.list_with_delimiter(self._store, self.key or None)
        folders = [BucketPath(self.bucket, key.rstrip("/")) for key in found["common_prefixes"]]
        return sorted(folders), sorted(BucketPath(self.bucket, facts["path"]) for facts in found["objects"])

    def below(self) -> dict[str, ObjectFacts]:
        """All objects below it, by their names from here on."""
        start = len(self.key) + 1 if self.key else 0
        return {facts["path"][start:]: _facts(facts) for facts in self._listed()}

    def _listed(self) -> Iterator[Any]:
        import obstore

        with self._errors():
            for some in obstore.list(self._store, self.key or None):
                yield from some

    @property
    def _store(self) -> ObjectStore:
        return _opened(self.bucket, hurried=self.hurried)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What a client raises becomes what files raise, in one line."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self)) from error
        except AlreadyExistsError as error:
            raise FileExistsError(errno.EEXIST, "the object is there already", str(self)) from error
        except ValueError as error:
            # A name that no object can have, such as one with an empty part.
            raise OSError(errno.EINVAL, str(error).partition("\n")[0], str(self)) from error
        except BaseError as error:
            raise OSError(errno.EIO, str(error).partition("\n")[0], str(self)) from error


def _facts(found: Any) -> ObjectFacts:  # noqa: ANN401 (obstore's ObjectMeta is only for type checkers)
    return ObjectFacts(found["size"], found["last_modified"].timestamp())


@lru_cache(maxsize=8)
def _opened(bucket: str, *, hurried: bool) -> ObjectStore:
    """The client of a bucket, one that waits or one that is ``hurried``.

    It finds credentials, region and endpoint where every AWS (or Google) client does.
    """
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{bucket} is object storage, and the library for it is not installed",
            allowed="a folder, or odkd with the extra 's3' on every node",
            remedy=Remedy("shell", text="pip install 'odkd[s3]'"),
        ) from error
    # Whoever gives an address that begins so has said it.
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    timeout = timedelta(seconds=10) if hurried else timedelta(minutes=5)
    options: Any = {"timeout": timeout, "connect_timeout": timedelta(seconds=10), "allow_http": plain}
    retries: Any = {**_RETRIES, "max_retries": 4, "retry_timeout": timedelta(seconds=15)} if hurried else _RETRIES
    return from_url(bucket, client_options=options, retry_config=retries)
