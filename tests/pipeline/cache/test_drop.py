"""``drop``: what goes, what is refused, and what is said of what stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cache import drop as removal
from pipeline.cli import DONE, USER_MISTAKE
from pipeline.experiments import refer
from stages.humanize import size_text
from storage_schemas.store.gc import garbage_at, remove
from storage_schemas.store.inventory import Inventory, take_inventory
from storage_schemas.store.lease import Lease, lease_of
from storage_schemas.store.store import Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import Cache, leave_run, put, store_of


def _entry_ids(cache: Cache) -> set[str]:
    return {f"{row['kind']}/{row['key']}" for row in cache.json("ls")["entries"]}


def _size(*entries: Entry) -> str:
    """What the files and the manifests of entries take, as text."""
    return size_text(sum(entry.manifest.size + len(entry.manifest.encode()) for entry in entries))


def test_an_entry_that_no_experiment_uses_goes_however_young_it_is(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    assert cache("drop", entry.key[:9]) == DONE
    assert cache.out.splitlines() == [
        f"{entry.entry_id}: {_size(entry)}",
        f"  Rebuild: python -m pipeline.run --config FILE --home {cache.home} --stage targets",
        f"1 entry, {_size(entry)} dropped",
    ]
    assert _entry_ids(cache) == {other.entry_id for name, other in made.items() if name != "unused"}
    assert not entry.folder.exists()


def test_an_entry_that_an_experiment_uses_is_refused_and_those_named_beside_it_stay(
    cache: Cache, made: dict[str, Entry]
) -> None:
    before = _entry_ids(cache)
    assert cache("drop", made["unused"].key, made["train bits"].key) == USER_MISTAKE
    entry_id = made["train bits"].entry_id
    assert cache.err.startswith(f"StoreError: {entry_id} is used by demo\n")
    assert f"  Next:    python -m pipeline.cache drop {entry_id} --used --dry-run --home {cache.home}" in cache.err
    assert _entry_ids(cache) == before


def test_an_entry_that_a_run_in_progress_needs_is_used(cache: Cache, made: dict[str, Entry]) -> None:
    refer(cache.home / "runs" / "new", "now", [made["unused"].entry_id])
    assert cache("drop", made["unused"].key) == USER_MISTAKE
    assert "is used by new" in cache.err


def test_where_it_is_not_known_what_an_experiment_uses_it_may_use_everything(cache: Cache, made: dict[str, Entry]) -> None:
    (leave_run(cache.home, "broken", []) / "metrics.json").write_text("{")
    assert cache("drop", made["unused"].key) == USER_MISTAKE
    assert f"{made['unused'].entry_id} may be used by broken, whose entries are unknown: metrics.json names no" in cache.err
    assert cache("drop", "--used", made["unused"].key) == DONE


def test_with_used_an_entry_goes_and_its_run_and_the_entries_made_from_it_are_named(
    cache: Cache, made: dict[str, Entry]
) -> None:
    bits = made["train bits"]
    assert cache("drop", "--used", bits.key) == DONE
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    assert cache.out.splitlines() == [
        f"{bits.entry_id}: {_size(bits)}, used by demo",
        f"  Rebuild: python -m pipeline.run --config {config} --home {cache.home} --stage targets",
        "  Made from it and kept; drop these too if they must match the rebuilt one:",
        *(f"    {entry_id}" for entry_id in sorted(made[name].entry_id for name in ("student", "scores of student"))),
        f"1 entry, {_size(bits)} dropped",
    ]
    assert bits.entry_id not in _entry_ids(cache)


# By hand: the recipes name these entries, directly or through another one.
_FROM_VIEW = {"train bits", "unused", "student", "baseline", "scores of student"}
_KEPT_WITHOUT_PRIMARY = {"train", "val", "primary", "val view", "train view", "baseline"}


def test_the_entries_made_from_an_entry_are_named_whatever_lies_between(cache: Cache, made: dict[str, Entry]) -> None:
    (dropped,) = cache.json("drop", "--used", "--dry-run", made["train view"].key)["dropped"]
    assert set(dropped["made_from_it"]) == {made[name].entry_id for name in _FROM_VIEW}
    (dropped,) = cache.json("drop", "--used", "--dry-run", made["primary"].key)["dropped"]
    assert set(dropped["made_from_it"]) == {made[name].entry_id for name in made.keys() - _KEPT_WITHOUT_PRIMARY}
    (dropped,) = cache.json("drop", "--used", "--dry-run", made["report"].key)["dropped"]
    assert dropped["made_from_it"] == []


def test_entries_that_are_dropped_together_are_not_named_as_kept(cache: Cache, made: dict[str, Entry]) -> None:
    bits, student = made["train bits"], made["student"]
    known = cache.json("drop", "--used", bits.key, student.key)
    assert [item["made_from_it"] for item in known["dropped"]] == [[made["scores of student"].entry_id]] * 2
    assert {bits.entry_id, student.entry_id} & _entry_ids(cache) == set()


def test_a_dry_run_says_the_same_and_removes_nothing(cache: Cache, made: dict[str, Entry]) -> None:
    before = _entry_ids(cache)
    known = cache.json("drop", "--used", "--dry-run", made["train bits"].key)
    assert cache("drop", "--used", "--dry-run", made["train bits"].key) == DONE
    assert cache.out.endswith(f"1 entry, {_size(made['train bits'])} to be dropped\n")
    assert _entry_ids(cache) == before
    assert cache.json("drop", "--used", made["train bits"].key) == {**known, "dry_run": False}


def test_a_key_that_is_given_twice_is_one_entry(cache: Cache) -> None:
    entry = put(store_of(cache.home), "views", {"view": 1})
    assert [item["entry"] for item in cache.json("drop", entry.key, entry.entry_id)["dropped"]] == [entry.entry_id]


@pytest.mark.parametrize("damage", ["emptied", "a folder"])
def test_an_entry_whose_manifest_is_damaged_goes_with_all_that_is_left_of_it(
    cache: Cache, made: dict[str, Entry], damage: str
) -> None:
    entry = made["unused"]
    manifest = local(entry.folder).parent / "manifest.json"
    if damage == "emptied":
        manifest.write_bytes(b"")
    else:
        manifest.unlink()
        manifest.mkdir()
    assert cache("verify") == USER_MISTAKE
    assert f"  Next:    python -m pipeline.cache drop {entry.entry_id} --home {cache.home}\n" in cache.out
    assert cache("drop", "--dry-run", entry.key) == DONE
    assert entry.folder.exists()
    assert cache("drop", entry.key) == DONE
    assert list(manifest.parent.iterdir()) == []
    assert cache("verify") == DONE


def test_an_entry_whose_manifest_this_user_may_not_read_stays(
    cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = made["unused"]
    reads = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path == local(entry.folder).parent / "manifest.json":
            raise PermissionError(13, "Permission denied")
        return reads(path)

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert cache("drop", entry.key) == USER_MISTAKE
    assert "manifest.json cannot be read (Permission denied)" in cache.err
    assert f"  Next:    python -m pipeline.cache verify {entry.entry_id} --home {cache.home}\n" in cache.err
    assert entry.folder.exists()


def test_where_a_writer_lives_a_damaged_manifest_stays(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    manifest = local(entry.folder).parent / "manifest.json"
    manifest.write_bytes(b"")
    with Lease(lease_of(manifest.parent / "0-new")):
        assert cache("drop", entry.key) == USER_MISTAKE
    assert f"{entry.entry_id} stays: process {os.getpid()} on " in cache.err
    assert manifest.exists()
    assert entry.folder.exists()


def test_the_lease_of_another_machine_beside_a_committed_entry_does_not_keep_it(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    lease = local(lease_of(entry.folder.parent / "20260101T000000000000-deadbeef"))
    lease.write_text('{"host": "elsewhere", "machine": "another", "pid": "1", "started": "1"}')
    assert cache("drop", entry.key) == DONE
    assert not entry.folder.exists()


def test_an_entry_that_is_committed_as_its_damaged_manifest_goes_stays(cache: Cache, made: dict[str, Entry]) -> None:
    """A run sets the damaged one aside, and commits, after ``drop`` has looked."""
    entry = made["unused"]
    manifest = local(entry.folder).parent / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"")
    store = store_of(cache.home)
    item = next(item for item in garbage_at(store, entry.entry_id) if item.what == "damaged manifest")
    reads = Path.read_bytes

    def committing(path: Path) -> bytes:
        data = reads(path)
        if path == manifest:
            manifest.write_bytes(whole)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", committing)
        assert not remove(store, item, lambda: False)
    assert manifest.read_bytes() == whole
    assert cache("verify") == DONE


def test_what_went_before_an_error_is_told_with_what_makes_it_again(
    cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = made["scores of student"], made["student"]
    moves = Path.replace

    def not_allowed(path: Path, target: Path) -> Path:
        if path == local(stays.folder).parent / "manifest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return moves(path, target)

    monkeypatch.setattr(Path, "replace", not_allowed)
    assert cache("drop", "--used", gone.key, stays.key, made["train"].key) == USER_MISTAKE
    assert cache.out.startswith(f"{gone.entry_id}: {_size(gone)}, used by demo\n  Rebuild: python -m pipeline.run --config ")
    assert cache.out.endswith(f"\n1 entry, {_size(gone)} dropped\n")
    assert f"{stays.entry_id} stays: {stays.folder.parent}/manifest.json cannot be removed (Permission denied)" in cache.err
    assert cache("verify", stays.key, made["train"].key) == DONE


def test_an_entry_that_a_run_begins_to_use_is_not_dropped(
    cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = made["unused"]

    def begins(store: Store) -> Inventory:
        refer(cache.home / "runs" / "new", "now", [entry.entry_id])
        return take_inventory(store)

    monkeypatch.setattr(removal, "take_inventory", begins)
    assert cache("drop", entry.key) == USER_MISTAKE
    assert f"{entry.entry_id} is used by new" in cache.err
    assert cache("verify", entry.key) == DONE


def test_a_home_upstream_out_of_reach_keeps_nothing_from_going(
    cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODKD_UPSTREAM", "/nowhere/to/be/found")
    assert cache("drop", made["unused"].key) == DONE
    assert cache("repair", made["student"].key) == DONE, "nothing is damaged"
