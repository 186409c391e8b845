"""The store on a full disk, without write permission and with a clock that jumps."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

import storage_schemas.store.draft as draft_module
import storage_schemas.store.gc as garbage_module
from storage_schemas.errors import StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.gc import find_garbage, remove
from storage_schemas.store.inventory import find_entry
from storage_schemas.store.store import Draft, Store
from tests.support.small_disk import remount, small_disk
from tests.support.store_samples import RECIPE, WRITER, make_entry, unfinished, writer_environment

OTHER = {**RECIPE, "threshold": 0.25}
ROOMY = "size=10m,nr_inodes=1000"


@pytest.fixture
def payload(tmp_path: LocalPath) -> str:
    """What an unbroken run makes."""
    return make_entry(Store(tmp_path / "unbroken")).manifest.payload


def _fault_of_making(store: Store) -> OSError | None:
    try:
        make_entry(store)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("limit", ["nr_inodes", "size"])
def test_a_full_disk_loses_nothing(tmp_path: LocalPath, payload: str, limit: str) -> None:
    """Room for one more file, or one more page of 4 KiB, each time, until there is enough."""
    failed = 0
    for room in range(100):
        disk = tmp_path / f"{room}"
        with small_disk(disk, ROOMY):
            store = Store(disk)
            other = make_entry(store, OTHER)
            used = len([disk, *disk.rglob("*")])
            pages = sum(path.stat().st_size > 0 for path in disk.rglob("*") if path.is_file())
            remount(disk, f"nr_inodes={used + room}" if limit == "nr_inodes" else f"size={4 * (pages + room)}k")
            fault = _fault_of_making(store)
            remount(disk, ROOMY)
            if fault is None:
                assert store.find("targets", RECIPE) is not None
                break
            assert fault.errno == errno.ENOSPC
            failed += 1
            assert other.damaged() == {}
            found = store.find("targets", RECIPE)
            assert found is None or found.damaged() == {}
            again = make_entry(store)
            assert (again.manifest.payload, again.damaged(), other.damaged()) == (payload, {}, {})
            assert find_entry(store, other.entry_id) == other
    # Three files, two markers, a manifest and a lease.
    assert failed >= 7


def test_a_read_only_store_can_be_read(tmp_path: LocalPath) -> None:
    with small_disk(tmp_path / "disk", ROOMY):
        store = Store(tmp_path / "disk")
        entry = make_entry(store, OTHER)
        begun = unfinished(store, (0,))
        remount(tmp_path / "disk", "ro")
        assert store.find("targets", OTHER) == entry
        assert (entry.damaged(), find_entry(store, entry.entry_id)) == ({}, entry)
        with store.draft("targets", OTHER) as same:
            assert same == entry
        with pytest.raises(OSError, match="Read-only file system"):
            make_entry(store)
        with pytest.raises(OSError, match="Read-only file system"):
            store.discard(entry)
        garbage, _ = find_garbage(store, set(), min_age_seconds=0)
        assert {item.what for item in garbage} == {"entry", "unfinished work"}
        for item in garbage:
            with pytest.raises((OSError, StoreError), match=r"Read-only file system|cannot be removed"):
                remove(store, item, lambda: False)
        remount(tmp_path / "disk", "rw")
        assert store.find("targets", OTHER) == entry
        assert entry.damaged() == {}
        with store.draft("targets", RECIPE) as draft:
            assert isinstance(draft, Draft)
            assert (set(draft.parts()), begun.is_dir()) == ({"block-0"}, True)


@contextmanager
def clock_moved(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    """This process's wall clock, set ``by`` so much forward."""
    real = time.time

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Moved:
            moved = datetime.now(tz) + by
            return cls.fromtimestamp(moved.timestamp(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + by.total_seconds())
        patch.setattr(draft_module, "datetime", Moved)
        yield


@pytest.mark.parametrize("by", [timedelta(days=-400), timedelta(days=400)], ids=["back", "forward"])
def test_a_jumping_clock_neither_repeats_nor_loses_work(
    tmp_path: LocalPath, payload: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: timedelta
) -> None:
    store = Store(tmp_path / "store")
    other = make_entry(store, OTHER)
    with subprocess.Popen(
        [sys.executable, str(WRITER), "hang", str(store.root)], stdout=subprocess.PIPE, text=True, env=writer_environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with clock_moved(monkeypatch, by):
            # The living writer's work looks a year old, or as if it were to begin in a year.
            monkeypatch.setattr(garbage_module, "EXPIRE_SECONDS", 1.0)
            garbage, left = find_garbage(store, {other.entry_id}, min_age_seconds=3600)
            assert garbage == []
            assert [reason for reason in left.values() if f"process {process.pid}" in reason]

            def kill(_: float) -> None:
                process.kill()
                process.wait()

            monkeypatch.setattr(time, "sleep", kill)
            with store.draft("targets", RECIPE) as draft:
                assert isinstance(draft, Draft)
                assert draft.folder.name[:4] == str((datetime.now(UTC) + by).year)
                assert set(draft.parts()) == {"block-0"}
            monkeypatch.undo()
    assert [message for message in caplog.messages if message.startswith("Waiting for")]
    # The clock is right again: whichever attempt's name is the younger, what was finished is used.
    entry = make_entry(store)
    assert (entry.manifest.payload, entry.damaged(), other.damaged()) == (payload, {}, {})
