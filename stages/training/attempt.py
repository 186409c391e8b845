"""One writer in the folder of a training: an attempt that was cut off and lives on must not write beside its replacement."""

from __future__ import annotations

from uuid import uuid4

from storage_schemas.paths.path import StorePath

__all__ = ["Attempt", "SupersededError"]

_FILE = "attempt"


class SupersededError(Exception):
    """Another process has begun or finished this training since. It is no mistake of the user: this process just ends."""


class Attempt:
    """A process that trains. The newest one in a folder owns it, until the folder is committed.

    Ray replaces a process on a node that it cannot reach, but such a process may still reach the storage.
    """

    def __init__(self, folder: StorePath) -> None:
        self._file, self._token = folder / _FILE, uuid4().hex.encode()
        self._file.write_atomic(self._token)

    def require_newest(self) -> None:
        """Look before each write; raises ``SupersededError``."""
        try:
            newest = self._file.read_bytes()
        except FileNotFoundError:
            # A commit removes it with all else that is not in the manifest.
            newest = b""
        if newest != self._token:
            raise SupersededError(f"another process owns {self._file.parent}")
