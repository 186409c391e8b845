"""Garbage: what may go, what may not, and that nothing goes which somebody has begun to need."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from storage_schemas.errors import StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.gc import Garbage, find_garbage, remove
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import grow_old
from tests.support.store_samples import FILES, RECIPE, fill, make_entry, unfinished, write_file

PLACE = f"targets/{key_of('targets', RECIPE)}"
HOUR = 3600.0


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def _find(store: Store, used: Collection[str] = (), hours: float = 24.0) -> list[Garbage]:
    return find_garbage(store, used, min_age_seconds=hours * HOUR, tell=lambda _: None)[0]


def _left(store: Store, used: Collection[str] = ()) -> dict[str, str]:
    return find_garbage(store, used, min_age_seconds=0, tell=lambda _: None)[1]


def _told(garbage: Collection[Garbage]) -> list[tuple[str, str]]:
    return [(item.entry_id, item.what) for item in garbage]


def _collect(store: Store, used: Collection[str] = ()) -> None:
    for item in _find(store, used):
        assert remove(store, item, lambda: False)


def _files(store: Store) -> set[str]:
    return {path.name for path in local(store.root / PLACE).iterdir()}


# Entries


def test_an_old_entry_that_nobody_uses_goes_and_one_that_is_used_stays(store: Store) -> None:
    used, unused = make_entry(store), make_entry(store, {**RECIPE, "threshold": 0.4})
    grow_old(local(store.root), 25)
    (item,) = _find(store, {used.entry_id})
    manifest = unused.folder.parent / "manifest.json"
    assert (item.entry_id, item.what, item.paths) == (unused.entry_id, "entry", (manifest, unused.folder))
    # Files of 11, 11 and 2 bytes, and the manifest.
    assert item.size == 24 + local(manifest).stat().st_size
    assert item.age_seconds == pytest.approx(25 * HOUR, abs=60)
    assert remove(store, item, lambda: False)
    assert list(local(unused.folder.parent).iterdir()) == []
    assert used.problems() == []


def test_a_young_entry_stays_by_the_age_of_its_manifest_here(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    grow_old(local(made.folder.parent / "manifest.json"), 23)
    assert _find(store) == []
    assert _told(_find(store, hours=22)) == [(PLACE, "entry")]
    grow_old(local(made.folder.parent / "manifest.json"), 25)
    grow_old(local(made.folder), 1)
    assert _told(_find(store)) == [(PLACE, "entry")], "it was there before somebody copied it back and forth"


def test_an_entry_is_taken_out_manifest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove(store, item, lambda: False)
    monkeypatch.undo()
    assert store.find("targets", RECIPE) is None
    assert made.problems() == []
    grow_old(local(store.root), 25)
    assert _told(_find(store)) == [(PLACE, "unfinished work")], "what is left goes next time"


@pytest.mark.parametrize("used", [set(), {PLACE}])
def test_an_entry_of_another_release_is_left_alone(store: Store, used: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage_schemas.store.manifest.SCHEMA_VERSION", 7)
    monkeypatch.setattr("storage_schemas.store.recipe.SCHEMA_VERSION", 7)
    with store.draft("targets", {"of": "another release"}) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        entry_id = draft.commit(FILES, measured={}).entry_id
    monkeypatch.undo()
    grow_old(local(store.root), 25)
    assert _find(store, used) == []
    assert "schema version 7" in _left(store, used)[entry_id]


def test_an_entry_that_is_used_since_it_was_looked_at_stays(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    assert not remove(store, item, lambda: True)
    assert store.find("targets", RECIPE) == made
    assert _files(store) == {"manifest.json", made.folder.name}


def test_an_entry_that_a_run_notes_and_finds_as_it_goes_stays(store: Store) -> None:
    """Whoever notes it before its manifest went is asked for after that, and whoever notes it later does not find it."""
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    found: list[Entry | None] = []

    def is_used() -> bool:
        found.append(store.find("targets", RECIPE))
        return len(found) == 2

    assert not remove(store, item, is_used)
    assert found == [made, None]
    assert store.find("targets", RECIPE) == made
    assert made.problems() == []
    assert _files(store) == {"manifest.json", made.folder.name}


def test_an_entry_made_again_while_its_manifest_was_away_is_the_one_that_stays(store: Store) -> None:
    make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    again: list[Entry] = []

    def is_used() -> bool:
        if store.find("targets", RECIPE) is None:
            again.append(make_entry(store))
            return True
        return False

    assert not remove(store, item, is_used)
    assert [store.find("targets", RECIPE)] == again
    assert again[0].problems() == []


def test_when_it_cannot_be_told_who_uses_an_entry_it_stays(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)

    def is_used() -> bool:
        if store.find("targets", RECIPE) is None:
            raise StoreError("metrics.json names no entries")
        return False

    with pytest.raises(StoreError, match="names no entries"):
        remove(store, item, is_used)
    assert store.find("targets", RECIPE) == made


def test_an_entry_made_again_since_it_was_looked_at_stays(store: Store) -> None:
    first = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    store.discard(first)
    second = make_entry(store)
    assert not remove(store, item, lambda: False)
    assert store.find("targets", RECIPE) == second
    assert second.problems() == []


def test_what_cannot_be_removed_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(StoreError, match="cannot be removed"):
        remove(store, item, lambda: False)


# What dead writers left


def test_the_work_of_a_dead_writer_goes_when_it_is_old_and_nobody_wants_it(store: Store) -> None:
    folder = unfinished(store, (0,))
    assert _find(store) == []
    grow_old(local(store.root), 25)
    assert _find(store, {PLACE}) == [], "an experiment goes on from it"
    (item,) = _find(store)
    assert (item.what, item.paths) == ("unfinished work", (folder,))
    assert remove(store, item, lambda: False)
    assert _files(store) == set()


def test_one_young_file_keeps_the_whole_work(store: Store) -> None:
    folder = unfinished(store, (0, 1))
    grow_old(local(store.root), 25)
    grow_old(local(folder / "bits" / "c" / "1"), 1)
    assert _find(store) == []


def test_work_that_an_entry_has_superseded_goes_though_the_entry_is_used(store: Store) -> None:
    made = make_entry(store)
    attempt = made.folder.with_name("20200101T000000000000-00000000")
    attempt.make_folder()
    local(attempt / "own").write_bytes(b"12345")
    local(attempt / "adopted").hardlink_to(made.path("zarr.json"))
    grow_old(local(store.root), 25)
    (item,) = _find(store, {PLACE})
    assert (item.what, item.paths) == ("unfinished work", (attempt,))
    assert item.size == 5, "what the entry shares frees nothing"
    assert remove(store, item, lambda: True)
    assert _files(store) == {"manifest.json", made.folder.name}
    assert made.problems() == []


def test_work_that_is_committed_since_it_was_looked_at_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer was held for dead, and was only slow."""
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        draft.folder.with_name(f"{draft.folder.name}.lease").unlink()
        grow_old(local(store.root), 25)
        (item,) = _find(store)
        made = draft.commit(FILES, measured={})
    assert not remove(store, item, lambda: False)
    assert made.problems() == []


def test_leases_of_the_dead_damaged_manifests_and_partial_files_go(store: Store) -> None:
    made = make_entry(store)
    home = made.folder.parent
    grow_old(local(store.root), 25)
    dead = {"host": os.uname().nodename, "machine": "", "pid": "1", "started": "1"}
    names = [
        "20200101T000000000000-00000000.lease",
        f"{made.folder.name}.lease",
        "manifest.json.damaged-12345678",
        ".manifest.json.12345678.partial",
    ]
    for name in names:
        local(home / name).write_text("" if name.endswith("lease") else json.dumps(dead))
    assert _find(store, {PLACE}) == [], "all of them are young"
    for name in names:
        grow_old(local(home / name), 25)
    assert sorted(item.what for item in _find(store, {PLACE})) == ["damaged manifest", "lease", "lease", "partial file"]
    _collect(store, {PLACE})
    assert _files(store) == {"manifest.json", made.folder.name}
    assert made.problems() == []


def _damage(entry: Entry) -> Path:
    manifest = entry.folder.parent / "manifest.json"
    local(manifest).write_bytes(manifest.read_bytes()[:-4])
    return local(manifest)


def test_an_entry_whose_manifest_is_damaged_goes_whole_unless_it_is_used(store: Store) -> None:
    _damage(make_entry(store))
    grow_old(local(store.root), 25)
    assert _find(store, {PLACE}) == []
    assert "is not a manifest" in _left(store, {PLACE})[PLACE]
    assert _told(_find(store)) == [(PLACE, "damaged manifest"), (PLACE, "unfinished work")]
    _collect(store)
    assert _files(store) == set()


def test_a_folder_in_a_manifests_place_goes_once_unless_the_entry_is_used(store: Store) -> None:
    manifest = local(make_entry(store).folder.parent / "manifest.json")
    manifest.unlink()
    manifest.mkdir()
    (manifest / "something").write_text("in the way")
    grow_old(local(store.root), 25)
    assert _find(store, {PLACE}) == []
    assert "is a folder" in _left(store, {PLACE})[PLACE]
    assert _told(_find(store)) == [(PLACE, "damaged manifest"), (PLACE, "unfinished work")]
    _collect(store)
    assert _files(store) == set()


def test_a_manifest_that_is_whole_since_it_was_looked_at_stays(store: Store) -> None:
    first = make_entry(store)
    _damage(first)
    grow_old(local(store.root), 25)
    garbage = _find(store)
    again = make_entry(store)
    assert [remove(store, item, lambda: False) for item in garbage] == [False, True]
    assert store.find("targets", RECIPE) == again
    assert again.problems() == []


# Writers that live


@pytest.mark.parametrize("hours", [0, 24])
def test_nothing_goes_where_a_writer_is_at_work(store: Store, hours: float) -> None:
    make_entry(store, {**RECIPE, "threshold": 0.4})
    unfinished(store, (0,))
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        finished = set(draft.parts())
        grow_old(local(store.root), 100)
        local(draft.folder.with_name(f"{draft.folder.name}.lease")).touch()
        found = _find(store, hours=hours)
        assert [item.what for item in found] == ["entry"]
        assert found[0].entry_id != PLACE
        assert _left(store)[PLACE] == f"process {os.getpid()} on {os.uname().nodename} is making it"
        assert set(draft.parts()) == finished == {"block-0"}


def test_nothing_goes_where_a_writer_has_begun_since_it_was_looked_at(store: Store) -> None:
    unfinished(store, (0,))
    grow_old(local(store.root), 25)
    (item,) = _find(store)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert not remove(store, item, lambda: False)
        for name in FILES[1:]:
            write_file(draft, name)
        assert draft.commit(FILES, measured={}).problems() == []


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
def test_a_writer_elsewhere_is_watched_for_a_minute_and_not_judged_by_the_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    folder = unfinished(store, (0,))
    grow_old(local(store.root), 25)
    elsewhere = _Elsewhere(local(folder), monkeypatch, lives=lives)
    told: list[str] = []
    found, left = find_garbage(store, (), min_age_seconds=24 * HOUR, tell=told.append)
    assert told == ["Watching for 60 s whether the writers of 1 entries live"]
    assert 60 < elsewhere.now - 1000 < 63
    if lives:
        assert (found, left) == ([], {PLACE: "process 1 on elsewhere is making it"})
    else:
        assert [item.paths for item in found] == [(folder, folder.with_name(f"{folder.name}.lease"))]
        assert remove(store, found[0], lambda: False)
        assert _files(store) == set()


def test_a_writer_that_was_heard_of_lately_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(store, (0,))
    elsewhere = _Elsewhere(local(folder), monkeypatch, lives=False)
    local(folder.with_name(f"{folder.name}.lease")).touch()
    assert _left(store) == {PLACE: "process 1 on elsewhere is making it"}
    assert elsewhere.now == 1000
