"""Garbage collection of entries, unfinished work and leftovers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from storage_schemas.errors import StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.entry import set_aside
from storage_schemas.store.gc import remove
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import grow_old
from tests.support.gc_samples import ENTRY_ID, HOUR, collect, files_of_entry, find, ids_and_kinds, left_alone
from tests.support.store_samples import FILES, RECIPE, fill, make_entry, unfinished


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


# Entries


def test_gc_deletes_an_old_unused_entry_and_keeps_a_used_one(store: Store) -> None:
    used, unused = make_entry(store), make_entry(store, {**RECIPE, "threshold": 0.4})
    grow_old(local(store.root), 25)
    (item,) = find(store, {used.entry_id})
    manifest = unused.folder.parent / "manifest.json"
    assert (item.entry_id, item.what, item.paths) == (unused.entry_id, "entry", (manifest, unused.folder))
    # Files of 11, 11 and 2 bytes, and the manifest.
    assert item.size == 24 + local(manifest).stat().st_size
    assert item.age_seconds == pytest.approx(25 * HOUR, abs=60)
    assert remove(store, item, lambda: False)
    assert list(local(unused.folder.parent).iterdir()) == []
    assert used.damaged() == {}


def test_gc_keeps_an_entry_whose_manifest_is_young(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    grow_old(local(made.folder.parent / "manifest.json"), 23)
    assert find(store) == []
    assert ids_and_kinds(find(store, hours=22)) == [(ENTRY_ID, "entry")]
    grow_old(local(made.folder.parent / "manifest.json"), 25)
    grow_old(local(made.folder), 1)
    assert ids_and_kinds(find(store)) == [(ENTRY_ID, "entry")], "it was there before somebody copied it back and forth"


def test_gc_deletes_the_manifest_before_the_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove(store, item, lambda: False)
    monkeypatch.undo()
    assert store.find("targets", RECIPE) is None
    assert made.damaged() == {}
    grow_old(local(store.root), 25)
    assert ids_and_kinds(find(store)) == [(ENTRY_ID, "unfinished work")], "what is left goes next time"


@pytest.mark.parametrize("used", [set(), {ENTRY_ID}])
def test_gc_keeps_an_entry_of_another_release(store: Store, used: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage_schemas.store.manifest.SCHEMA_VERSION", 7)
    monkeypatch.setattr("storage_schemas.store.recipe.SCHEMA_VERSION", 7)
    with store.draft("targets", {"of": "another release"}) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        entry_id = draft.commit(FILES, measured={}).entry_id
    monkeypatch.undo()
    grow_old(local(store.root), 25)
    assert find(store, used) == []
    assert "schema version 7" in left_alone(store, used)[entry_id]


def test_gc_keeps_an_entry_that_is_used_since_the_scan(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)
    assert not remove(store, item, lambda: True)
    assert store.find("targets", RECIPE) == made
    assert files_of_entry(store) == {"manifest.json", made.folder.name}


def test_gc_puts_the_manifest_back_if_a_run_notes_the_entry_meanwhile(store: Store) -> None:
    """Whoever notes it before its manifest went is asked for after that, and whoever notes it later does not find it."""
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)
    found: list[Entry | None] = []

    def is_used() -> bool:
        found.append(store.find("targets", RECIPE))
        return len(found) == 2

    assert not remove(store, item, is_used)
    assert found == [made, None]
    assert store.find("targets", RECIPE) == made
    assert made.damaged() == {}
    assert files_of_entry(store) == {"manifest.json", made.folder.name}


def test_gc_keeps_the_entry_that_replaces_the_deleted_one_meanwhile(store: Store) -> None:
    make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)
    again: list[Entry] = []

    def is_used() -> bool:
        if store.find("targets", RECIPE) is None:
            again.append(make_entry(store))
            return True
        return False

    assert not remove(store, item, is_used)
    assert [store.find("targets", RECIPE)] == again
    assert again[0].damaged() == {}


def test_gc_keeps_an_entry_if_reading_its_users_fails(store: Store) -> None:
    made = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)

    def is_used() -> bool:
        if store.find("targets", RECIPE) is None:
            raise StoreError("metrics.json names no entries")
        return False

    with pytest.raises(StoreError, match="names no entries"):
        remove(store, item, is_used)
    assert store.find("targets", RECIPE) == made


def test_gc_keeps_an_entry_that_was_rebuilt_since_the_scan(store: Store) -> None:
    first = make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)
    store.discard(first)
    second = make_entry(store)
    assert not remove(store, item, lambda: False)
    assert store.find("targets", RECIPE) == second
    assert second.damaged() == {}


def test_gc_reports_a_file_that_it_cannot_delete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_entry(store)
    grow_old(local(store.root), 25)
    (item,) = find(store)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(StoreError, match="cannot be removed"):
        remove(store, item, lambda: False)


# What dead writers left


def test_gc_deletes_the_old_unused_work_of_a_dead_writer(store: Store) -> None:
    folder = unfinished(store, (0,))
    assert find(store) == []
    grow_old(local(store.root), 25)
    assert find(store, {ENTRY_ID}) == [], "an experiment goes on from it"
    (item,) = find(store)
    assert (item.what, item.paths) == ("unfinished work", (folder,))
    assert remove(store, item, lambda: False)
    assert files_of_entry(store) == set()


def test_gc_keeps_work_with_one_young_file(store: Store) -> None:
    folder = unfinished(store, (0, 1))
    grow_old(local(store.root), 25)
    grow_old(local(folder / "bits" / "c" / "1"), 1)
    assert find(store) == []


def test_gc_deletes_superseded_work_of_a_used_entry(store: Store) -> None:
    made = make_entry(store)
    attempt = made.folder.with_name("20200101T000000000000-00000000")
    attempt.make_folder()
    local(attempt / "own").write_bytes(b"12345")
    local(attempt / "adopted").hardlink_to(made.path("zarr.json"))
    grow_old(local(store.root), 25)
    (item,) = find(store, {ENTRY_ID})
    assert (item.what, item.paths) == ("unfinished work", (attempt,))
    assert item.size == 5, "what the entry shares frees nothing"
    assert remove(store, item, lambda: True)
    assert files_of_entry(store) == {"manifest.json", made.folder.name}
    assert made.damaged() == {}


def test_gc_keeps_work_that_was_committed_since_the_scan(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer was held for dead, and was only slow."""
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        draft.folder.with_name(f"{draft.folder.name}.lease").unlink()
        grow_old(local(store.root), 25)
        (item,) = find(store)
        made = draft.commit(FILES, measured={})
    assert not remove(store, item, lambda: False)
    assert made.damaged() == {}


def test_gc_deletes_leases_of_dead_writers_damaged_manifests_and_partial_files(store: Store) -> None:
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
    assert find(store, {ENTRY_ID}) == [], "all of them are young"
    for name in names:
        grow_old(local(home / name), 25)
    assert sorted(item.what for item in find(store, {ENTRY_ID})) == ["damaged manifest", "lease", "lease", "partial file"]
    collect(store, {ENTRY_ID})
    assert files_of_entry(store) == {"manifest.json", made.folder.name}
    assert made.damaged() == {}


def _damage(entry: Entry) -> Path:
    manifest = entry.folder.parent / "manifest.json"
    local(manifest).write_bytes(manifest.read_bytes()[:-4])
    return local(manifest)


def test_gc_deletes_an_unused_entry_with_a_damaged_manifest(store: Store) -> None:
    _damage(make_entry(store))
    grow_old(local(store.root), 25)
    assert find(store, {ENTRY_ID}) == []
    assert "is not a manifest" in left_alone(store, {ENTRY_ID})[ENTRY_ID]
    assert ids_and_kinds(find(store)) == [(ENTRY_ID, "damaged manifest"), (ENTRY_ID, "unfinished work")]
    collect(store)
    assert files_of_entry(store) == set()


def test_gc_deletes_a_folder_that_lies_where_the_manifest_belongs(store: Store) -> None:
    manifest = local(make_entry(store).folder.parent / "manifest.json")
    manifest.unlink()
    manifest.mkdir()
    (manifest / "something").write_text("in the way")
    grow_old(local(store.root), 25)
    assert find(store, {ENTRY_ID}) == []
    assert "is a folder" in left_alone(store, {ENTRY_ID})[ENTRY_ID]
    assert ids_and_kinds(find(store)) == [(ENTRY_ID, "damaged manifest"), (ENTRY_ID, "unfinished work")]
    collect(store)
    assert files_of_entry(store) == set()


def test_gc_keeps_a_manifest_that_was_repaired_since_the_scan(store: Store) -> None:
    first = make_entry(store)
    _damage(first)
    grow_old(local(store.root), 25)
    garbage = find(store)
    again = make_entry(store)
    assert [remove(store, item, lambda: False) for item in garbage] == [False, True]
    assert store.find("targets", RECIPE) == again
    assert again.damaged() == {}


def test_gc_does_not_touch_a_manifest_that_has_become_valid(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    manifest = local(made.folder.parent / "manifest.json")
    valid = manifest.read_bytes()
    _damage(made)
    grow_old(local(store.root), 25)
    (item,) = [item for item in find(store) if item.what == "damaged manifest"]
    manifest.write_bytes(valid)
    monkeypatch.setattr(LocalPath, "move_to", None)
    assert not remove(store, item, lambda: False)
    assert made.is_in_store()


def test_gc_leaves_a_dangling_link_alone(store: Store) -> None:
    made = make_entry(store)
    link = local(made.folder.parent) / ".x.partial"
    link.symlink_to("nowhere")
    assert ids_and_kinds(find(store, hours=0)) == [(ENTRY_ID, "entry")]
    collect(store)
    assert link.is_symlink()


def test_an_entry_that_is_needed_keeps_its_files_while_another_process_has_its_manifest_aside(store: Store) -> None:
    made = make_entry(store)
    set_aside(made.folder.parent / "manifest.json")
    assert not store.discard(made, is_needed=lambda: True)
    assert made.damaged() == {}
