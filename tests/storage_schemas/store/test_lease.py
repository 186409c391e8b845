"""Leases: renewing them, and deciding whether their holder lives."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage_schemas.paths.local import LocalPath
from storage_schemas.store import lease
from storage_schemas.store.lease import EXPIRE_SECONDS, Lease, LeaseWatch
from tests.support.buckets import local

HOLDER = """
import os, sys, time
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.lease import Lease
with Lease(LocalPath(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class _Clock:
    """A clock that goes when it is told to; without ``time()``, so that asking for the date would fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: self.now))


def _eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def _foreign(path: Path, beat: int) -> None:
    path.write_text(
        json.dumps({"owner": "x", "host": "elsewhere", "machine": "other", "pid": "1", "started": "1", "beat": beat})
    )


def test_a_lease_exists_while_it_is_held(tmp_path: LocalPath) -> None:
    with Lease(tmp_path / "lease"):
        assert not LeaseWatch(tmp_path / "lease").is_dead()
    assert list(tmp_path.iterdir()) == []
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_an_error_in_the_work_deletes_the_lease(tmp_path: LocalPath) -> None:
    with pytest.raises(RuntimeError), Lease(tmp_path / "lease"):
        raise RuntimeError
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_a_killed_holder_on_this_machine_is_dead_immediately(tmp_path: LocalPath) -> None:
    path = tmp_path / "lease"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            watch = LeaseWatch(path)
            assert not watch.is_dead()
            assert str(holder.pid) in watch.holder()
        finally:
            holder.kill()
        # Not waited for yet: a zombie is dead too.
        assert _eventually(watch.is_dead)
    assert watch.is_dead()
    assert path.exists()


def test_a_reused_process_id_is_not_the_holder(tmp_path: LocalPath) -> None:
    path = tmp_path / "lease"
    with Lease(path):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "started": "1"}))
        assert LeaseWatch(path).is_dead()


def test_a_process_id_of_another_container_is_not_compared(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lease"
    with Lease(path):
        facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "machine": "same boot, other namespace", "pid": "999999999"}))
    assert not LeaseWatch(path).is_dead()


def test_a_holder_on_another_machine_is_dead_after_the_expiry_time(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = _Clock(monkeypatch), tmp_path / "lease"
    _foreign(path, 0)
    watch = LeaseWatch(path)
    assert not watch.is_dead()
    clock.now += EXPIRE_SECONDS
    assert not watch.is_dead()
    clock.now += 0.1
    assert watch.is_dead()


def test_a_beat_restarts_the_expiry_time(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = _Clock(monkeypatch), tmp_path / "lease"
    _foreign(path, 0)
    watch = LeaseWatch(path)
    assert not watch.is_dead()
    for beat in range(1, 4):
        clock.now += EXPIRE_SECONDS - 1
        _foreign(path, beat)
        assert not watch.is_dead()
    clock.now += EXPIRE_SECONDS - 1
    assert not watch.is_dead()
    clock.now += 2
    assert watch.is_dead()


def test_file_age_and_date_do_not_decide_whether_a_holder_lives(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    _Clock(monkeypatch)
    path = tmp_path / "lease"
    _foreign(path, 0)
    watch = LeaseWatch(path)
    for date in (0.0, 4e9):
        os.utime(path, (date, date))
        monkeypatch.setattr(time, "time", lambda date=date: date)
        assert not watch.is_dead()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_file_that_is_no_lease_has_no_holder(tmp_path: LocalPath, content: bytes) -> None:
    (tmp_path / "lease").write_bytes(content)
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_an_unreadable_lease_lives_until_it_expires(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On NFS a file that was just replaced can be stale for a moment; only one that is not there is nobody's."""
    clock, path = _Clock(monkeypatch), tmp_path / "lease"
    _foreign(path, 0)
    watch, unseen = LeaseWatch(path), LeaseWatch(path)
    assert not watch.is_dead()
    real = Path.read_bytes

    def stale(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", stale)
    for each in (watch, unseen):
        assert not each.is_dead()
        assert not each.is_gone()
    assert "process 1 on elsewhere" in watch.holder()
    assert "Stale file handle" in caplog.text
    clock.now += EXPIRE_SECONDS + 0.1
    for each in (watch, unseen):
        assert each.is_dead()
        assert not each.is_gone()


def test_only_a_holder_on_this_machine_is_surely_gone(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = _Clock(monkeypatch), tmp_path / "lease"
    assert LeaseWatch(path).is_gone()
    with Lease(path):
        facts = json.loads(path.read_text())
        assert not LeaseWatch(path).is_gone()
        path.write_text(json.dumps({**facts, "started": "1"}))
        assert LeaseWatch(path).is_gone()
    _foreign(path, 0)
    watch = LeaseWatch(path)
    assert not watch.is_dead()
    clock.now += EXPIRE_SECONDS + 1
    assert watch.is_dead()
    assert not watch.is_gone()


def test_the_thread_of_a_lease_renews_it_and_ends_with_it(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)

    def threads() -> int:
        return sum(thread.name == "odkd-lease" for thread in threading.enumerate())

    held = [Lease(tmp_path / f"{number}") for number in range(50)]
    for each in held:
        each.__enter__()
    first = {each.path: each.path.read_bytes() for each in held}
    assert threads() == 50
    assert _eventually(lambda: all(each.path.read_bytes() != first[each.path] for each in held))
    for each in held[:-1]:
        each.__exit__(None, None, None)
    last = held[-1].path.read_bytes()
    assert _eventually(lambda: held[-1].path.read_bytes() != last)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["49"]
    held[-1].__exit__(None, None, None)
    assert _eventually(lambda: threads() == 0)
    with Lease(tmp_path / "again") as again:
        before = again.path.read_bytes()
        assert _eventually(lambda: again.path.read_bytes() != before)


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), ValueError("of another kind")])
def test_the_thread_continues_after_an_error(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    real = Path.exists

    def broken(self: Path) -> bool:
        if self.name == "lease":
            raise error
        return real(self)

    with Lease(tmp_path / "lease") as held, Lease(tmp_path / "other") as other:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "exists", broken)
            assert _eventually(lambda: str(error) in caplog.text)
            before = other.path.read_bytes()
            assert _eventually(lambda: other.path.read_bytes() != before), "the other leases of the process go on"
        before = held.path.read_bytes()
        assert _eventually(lambda: held.path.read_bytes() != before)


def test_a_beat_does_not_restore_a_deleted_lease(tmp_path: LocalPath) -> None:
    with Lease(tmp_path / "lease") as held:
        held.path.unlink()
        held.beat()
        assert not held.path.exists()


def test_a_beat_after_the_end_writes_nothing(tmp_path: LocalPath) -> None:
    with Lease(tmp_path / "lease") as held:
        pass
    local(held.path).write_bytes(b"another's")
    held.beat()
    assert held.path.read_bytes() == b"another's"


def test_a_failed_beat_is_logged_and_the_next_one_written(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Lease(tmp_path / "lease") as held:
        before = held.path.read_bytes()
        with monkeypatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(LocalPath, "write_atomic", full)
            held.beat()
        assert "No space left on device" in caplog.text
        held.beat()
        assert held.path.read_bytes() != before
