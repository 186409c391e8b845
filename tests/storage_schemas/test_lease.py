"""Leases: who lives, who is dead, and one thread that beats for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage_schemas import lease
from storage_schemas.lease import EXPIRE_SECONDS, Lease, LeaseWatch

HOLDER = """
import os, sys, time
from pathlib import Path
from storage_schemas.lease import Lease
with Lease(Path(sys.argv[1])):
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


def test_a_lease_is_there_while_it_is_held(tmp_path: Path) -> None:
    with Lease(tmp_path / "lease"):
        assert not LeaseWatch(tmp_path / "lease").is_dead()
    assert list(tmp_path.iterdir()) == []
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_an_error_in_the_work_gives_the_lease_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Lease(tmp_path / "lease"):
        raise RuntimeError
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_a_killed_holder_on_this_machine_is_dead_at_once(tmp_path: Path) -> None:
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


def test_a_process_id_used_again_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with Lease(path):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({**facts, "started": "1"}))
        assert LeaseWatch(path).is_dead()


def test_a_process_id_of_another_container_is_not_looked_up_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lease"
    with Lease(path):
        facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "machine": "same boot, other namespace", "pid": "999999999"}))
    assert not LeaseWatch(path).is_dead()


def test_a_holder_elsewhere_is_dead_when_nothing_changes_until_the_lease_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = _Clock(monkeypatch), tmp_path / "lease"
    _foreign(path, 0)
    watch = LeaseWatch(path)
    assert not watch.is_dead()
    clock.now += EXPIRE_SECONDS
    assert not watch.is_dead()
    clock.now += 0.1
    assert watch.is_dead()


def test_a_beat_seen_starts_the_count_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_age_of_the_file_and_the_date_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_is_not_a_lease_is_nobodys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lease").write_bytes(content)
    assert LeaseWatch(tmp_path / "lease").is_dead()


def test_one_thread_beats_for_all_leases_and_ends_with_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)

    def threads() -> int:
        return sum(thread.name == "odkd-leases" for thread in threading.enumerate())

    held = [Lease(tmp_path / f"{number}") for number in range(50)]
    for each in held:
        each.__enter__()
    first = {each.path: each.path.read_bytes() for each in held}
    assert threads() == 1
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


def test_a_lease_taken_away_is_not_written_again(tmp_path: Path) -> None:
    with Lease(tmp_path / "lease") as held:
        held.path.unlink()
        held.beat()
        assert not held.path.exists()


def test_a_beat_after_the_end_is_not_written(tmp_path: Path) -> None:
    with Lease(tmp_path / "lease") as held:
        pass
    held.path.write_bytes(b"another's")
    held.beat()
    assert held.path.read_bytes() == b"another's"


def test_a_beat_that_fails_is_told_and_the_next_one_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Lease(tmp_path / "lease") as held:
        before = held.path.read_bytes()
        with monkeypatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(lease, "write_atomic", full)
            held.beat()
        assert "No space left on device" in caplog.text
        held.beat()
        assert held.path.read_bytes() != before
