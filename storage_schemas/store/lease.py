"""The writers of an entry and their leases: a lease saves a second writer the work; correctness never depends on it."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from storage_schemas.paths.path import StorePath
from storage_schemas.store.manifest import MANIFEST

__all__ = ["BEAT_SECONDS", "EXPIRE_SECONDS", "Lease", "LeaseWatch", "Writers", "lease_of"]

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
EXPIRE_SECONDS = 60.0
_LEASE = ".lease"
_POLL_SECONDS = 0.5


def lease_of(folder: StorePath) -> StorePath:
    """The lease of a writer's folder. It lies beside it and is written first: a folder without a lease looks abandoned."""
    return folder.with_name(f"{folder.name}{_LEASE}")


class Lease:
    """A file that a thread rewrites every ``BEAT_SECONDS``; used as a context manager around the work."""

    def __init__(self, path: StorePath) -> None:
        self.path = path
        self._facts = _this_process()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Lease:
        self._write()
        threading.Thread(target=self._renew, name="odkd-lease", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        # Wait for a beat in progress, which would write the file again.
        with self._lock:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Show that the holder lives; a lease that another process has deleted is not written again."""
        with self._lock:
            if self._ended.is_set():
                return
            try:
                # On NFS even this can fail, with ESTALE or EIO.
                if self.path.exists():
                    self._write()
            except Exception as error:
                log.warning("The lease %s could not be renewed: %s", self.path, error)

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.beat()

    def _write(self) -> None:
        # Not durable: a power failure also ends the process that holds the lease.
        self.path.write_atomic(json.dumps({**self._facts, "beat": uuid.uuid4().hex}).encode(), durable=False)


class LeaseWatch:
    """Tells whether the holder of a lease lives, by whether the content changes and never by comparing clocks."""

    def __init__(self, path: StorePath) -> None:
        self.path = path
        self._seen = b""
        self._facts: dict[str, object] | None = None
        self._since = time.monotonic()

    def holder(self) -> str:
        """Where the holder runs, for a message."""
        facts = self._read() or {}
        return f"process {facts.get('pid', '?')} on {facts.get('host', '?')}"

    def is_dead(self) -> bool:
        """True if there is no holder, if it ran here and is gone, or if nothing has changed for ``EXPIRE_SECONDS``."""
        facts = self._read()
        if facts is not None and (not facts or _ran_here(facts)):
            return _is_gone(facts)
        return time.monotonic() - self._since > EXPIRE_SECONDS

    def is_gone(self) -> bool:
        """True if the holder has surely ended: there is no lease, or the holder ran on this machine and is gone.

        A holder on another machine is never surely gone: one that ``is_dead`` may only be slow.
        """
        facts = self._read()
        return facts is not None and _is_gone(facts)

    def _read(self) -> dict[str, object] | None:
        """The facts of the lease, empty if there is none; while it cannot be read the last known facts, or None."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            self._facts = {}
            return self._facts
        except OSError as error:
            log.warning("The lease %s cannot be read: %s", self.path, error)
            return self._facts
        if data != self._seen:
            self._seen, self._since = data, time.monotonic()
        try:
            self._facts = dict(json.loads(data))
        except (ValueError, TypeError):
            # The file is no lease: a lease is never written in part.
            self._facts = {}
        return self._facts


class Writers:
    """All other writers of one entry, alive and dead."""

    def __init__(self, entry_folder: StorePath) -> None:
        self._entry_folder = entry_folder
        self._watches: dict[StorePath, LeaseWatch] = {}

    def living(self) -> dict[StorePath, LeaseWatch]:
        """The live writers by folder; a folder may not exist yet."""
        folders, files = self._entry_folder.children()
        # A folder in place of the manifest, set aside or not, belongs to no writer.
        names = {path.name for path in folders if not path.name.startswith(MANIFEST)} | {
            path.name.removesuffix(_LEASE) for path in files if path.name.endswith(_LEASE)
        }
        paths = [self._entry_folder / name for name in sorted(names)]
        self._watches = {path: self._watches.get(path) or LeaseWatch(lease_of(path)) for path in paths}
        return {path: watch for path, watch in self._watches.items() if not watch.is_dead()}

    def dead(self) -> list[StorePath]:
        """The folders that ``living`` found dead; the newest comes first, since it has adopted the most parts."""
        return [path for path, watch in reversed(self._watches.items()) if watch.is_dead()]

    def wait(self, entry_id: str, *, is_there: Callable[[], bool]) -> None:
        """Wait until the entry exists or no writer lives."""
        has_notified = False
        while not is_there() and (living := self.living()):
            if not has_notified:
                log.info("Waiting for %s, which %s is making", entry_id, next(iter(living.values())).holder())
                has_notified = True
            time.sleep(_POLL_SECONDS)


def _ran_here(facts: dict[str, object]) -> bool:
    machine = _machine()
    return bool(machine) and facts.get("host") == socket.gethostname() and facts.get("machine") == machine


def _is_gone(facts: dict[str, object]) -> bool:
    return not facts or (_ran_here(facts) and _start_time(str(facts.get("pid", 0))) != facts.get("started"))


def _this_process() -> dict[str, object]:
    pid = str(os.getpid())
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _start_time(pid)}


def _machine() -> str:
    """An id that differs between machines, and between containers with one host name, whose process ids are unrelated."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(pid: str) -> str:
    """Start time of a process of this machine in ticks since boot, which tells reused ids apart; '' if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The command name is in parentheses and may contain spaces; the process state is the first field after it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
