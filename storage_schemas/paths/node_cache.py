"""The node cache: local copies of objects, downloaded once for each node and verified before use."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from storage_schemas.errors import CorruptEntryError, Remedy
from storage_schemas.paths.facts import FileFacts, known_facts_of
from storage_schemas.paths.local import LocalPath

if TYPE_CHECKING:
    from storage_schemas.paths.bucket import BucketPath

__all__ = ["RemoteFile", "RemoteFolder", "cache_root", "in_threads"]

log = logging.getLogger(__name__)

_THREADS = 16
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RemoteFile:
    """An object with the facts that it must have; ``remedy`` is what to do where it differs."""

    path: BucketPath
    facts: FileFacts
    remedy: Remedy | None = None

    @property
    def suffix(self) -> str:
        """The end of its name, such as ``.onnx``."""
        return Path(self.path.name).suffix

    def fetch(self) -> LocalPath:
        """The verified copy on this node, downloaded if needed.

        Raises:
            CorruptEntryError: the object is missing, or differs from its facts.
        """
        path = self.path.mirror()
        with _locked(path):
            with suppress(OSError):
                if known_facts_of(path) == self.facts:
                    return path
            if path.exists():
                log.warning("%s differs from the manifest; downloading it again", path)
            partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
            try:
                if problem := partial.write_blocks(self.path.blocks(), self.facts):
                    allowed = "the object that its manifest describes, unchanged"
                    raise CorruptEntryError(f"{self.path} {problem}", allowed=allowed, remedy=self.remedy)
                return partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFolder:
    """Objects below ``path``, by name, with the facts that each must have."""

    path: BucketPath
    files: tuple[tuple[str, FileFacts], ...]
    remedy: Remedy | None = None

    def fetch(self) -> LocalPath:
        """The folder on this node, with every file as ``RemoteFile.fetch`` leaves it."""
        files = [RemoteFile(self.path / name, facts, self.remedy) for name, facts in self.files]
        list(in_threads(RemoteFile.fetch, files))
        return self.path.mirror()


def cache_root() -> Path:
    """The folder of the node cache: ``$ODKD_CACHE``, else ``~/.cache/odkd``.

    Only this function reads the variable, since each node may have its fast disk under another path.
    """
    return Path(os.environ.get("ODKD_CACHE", "~/.cache/odkd")).expanduser()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of a node download a file while the others wait for it."""
    locks = cache_root() / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / hashlib.sha256(str(path).encode()).hexdigest()[:2]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Like ``map``, with several calls at the same time: a request to a bucket mostly waits."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="odkd-objects") as pool:
        yield from pool.map(function, items)
