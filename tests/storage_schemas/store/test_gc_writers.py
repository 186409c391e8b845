"""Garbage collection beside writers that live, or may live on another machine."""

from __future__ import annotations

import json
import os
import time

import pytest

from storage_schemas.paths.local import LocalPath
from storage_schemas.store.gc import find_garbage, remove
from storage_schemas.store.store import Draft, Store
from tests.support.buckets import local
from tests.support.cache_samples import grow_old
from tests.support.gc_samples import ENTRY_ID, HOUR, files_of_entry, find, left_alone
from tests.support.store_samples import FILES, RECIPE, make_entry, unfinished, write_file


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("hours", [0, 24])
def test_gc_deletes_nothing_beside_a_live_writer(store: Store, hours: float) -> None:
    make_entry(store, {**RECIPE, "threshold": 0.4})
    unfinished(store, (0,))
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        finished = set(draft.parts())
        grow_old(local(store.root), 100)
        local(draft.folder.with_name(f"{draft.folder.name}.lease")).touch()
        found = find(store, hours=hours)
        assert [item.what for item in found] == ["entry"]
        assert found[0].entry_id != ENTRY_ID
        assert left_alone(store)[ENTRY_ID] == f"process {os.getpid()} on {os.uname().nodename} is making it"
        assert set(draft.parts()) == finished == {"block-0"}


def test_gc_deletes_nothing_if_a_writer_began_since_the_scan(store: Store) -> None:
    unfinished(store, (0,))
    grow_old(local(store.root), 25)
    (item,) = find(store)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert not remove(store, item, lambda: False)
        for name in FILES[1:]:
            write_file(draft, name)
        assert draft.commit(FILES, measured={}).damaged() == {}


class _Elsewhere:
    """The lease of a writer on another machine, and time that passes when somebody sleeps."""

    def __init__(self, folder: LocalPath, monkeypatch: pytest.MonkeyPatch, *, lives: bool) -> None:
        self._path = folder.with_name(f"{folder.name}.lease")
        self._lives, self._beats, self.now = lives, 0, 1000.0
        self._write()
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _write(self) -> None:
        facts = {"owner": "x", "host": "elsewhere", "machine": "other", "pid": "1", "started": "1", "beat": self._beats}
        self._path.write_text(json.dumps(facts))
        grow_old(self._path, 25)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._lives:
            self._beats += 1
            self._write()


@pytest.mark.parametrize("lives", [False, True])
def test_gc_watches_a_writer_on_another_machine_for_a_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lives: bool
) -> None:
    folder = unfinished(store, (0,))
    grow_old(local(store.root), 25)
    elsewhere = _Elsewhere(local(folder), monkeypatch, lives=lives)
    found, left = find_garbage(store, (), min_age_seconds=24 * HOUR)
    assert caplog.messages == ["Watching for 60 s whether the writers of 1 entries live"]
    assert 60 < elsewhere.now - 1000 < 63
    if lives:
        assert (found, left) == ([], {ENTRY_ID: "process 1 on elsewhere is making it"})
    else:
        assert [item.paths for item in found] == [(folder, folder.with_name(f"{folder.name}.lease"))]
        assert remove(store, found[0], lambda: False)
        assert files_of_entry(store) == set()


def test_gc_does_not_wait_for_a_writer_whose_lease_is_fresh(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(store, (0,))
    elsewhere = _Elsewhere(local(folder), monkeypatch, lives=False)
    local(folder.with_name(f"{folder.name}.lease")).touch()
    assert left_alone(store) == {ENTRY_ID: "process 1 on elsewhere is making it"}
    assert elsewhere.now == 1000
