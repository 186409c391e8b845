"""A lease on work in progress: it saves a second writer the work, and never decides what is correct."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from storage_schemas.atomic import write_atomic

__all__ = ["BEAT_SECONDS", "EXPIRE_SECONDS", "Lease", "LeaseWatch"]

BEAT_SECONDS = 2.0
EXPIRE_SECONDS = 30.0


class Lease:
    """A file that its holder rewrites every ``BEAT_SECONDS``; used as a context manager around the work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts = {"owner": uuid.uuid4().hex, **_this_process()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="odkd-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._write(0)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_SECONDS):
            beat += 1
            # A folder that another process has taken over or removed is not written again.
            if not self.path.exists():
                return
            self._write(beat)

    def _write(self, beat: int) -> None:
        write_atomic(self.path, json.dumps({**self._facts, "beat": beat}).encode())


class LeaseWatch:
    """Judges from outside whether a lease's holder lives: by changing content, never by comparing clocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = b""
        self._since = time.monotonic()

    def holder(self) -> str:
        """Where the holder runs, for a message."""
        facts = self._read()
        return f"process {facts.get('pid', '?')} on {facts.get('host', '?')}"

    def is_dead(self) -> bool:
        """True if there is no holder, if it ran here and is gone, or if nothing has changed for ``EXPIRE_SECONDS``."""
        facts = self._read()
        if not facts:
            return True
        if facts.get("host") == socket.gethostname() and facts.get("boot") == _boot_id():
            return _start_time(str(facts.get("pid", 0))) != facts.get("started")
        return time.monotonic() - self._since > EXPIRE_SECONDS

    def _read(self) -> dict[str, object]:
        try:
            data = self.path.read_bytes()
            facts = json.loads(data)
        except (OSError, ValueError):
            return {}
        if data != self._seen:
            self._seen, self._since = data, time.monotonic()
        return facts if isinstance(facts, dict) else {}


def _this_process() -> dict[str, object]:
    pid = str(os.getpid())
    return {"host": socket.gethostname(), "boot": _boot_id(), "pid": pid, "started": _start_time(pid)}


def _boot_id() -> str:
    """Tells two machines (or containers on two machines) of the same host name apart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: str) -> str:
    """When a process of this machine started, in ticks since boot (a reused id has another one); '' if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command's name stands in parentheses and may hold spaces; the state is the first field behind it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
