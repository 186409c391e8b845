"""``drop``: what goes, what is refused, and what is said of what stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cache import drop as removal
from pipeline.cli import DONE, USER_MISTAKE
from pipeline.experiments import refer
from storage_schemas.store.gc import garbage_at, remove
from storage_schemas.store.inventory import Inventory, take_inventory
from storage_schemas.store.lease import Lease
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.writers import lease_of
from tests.support.buckets import local
from tests.support.cache_samples import Cache, leave_run, put, store_of


def _places(cache: Cache) -> set[str]:
    return {f"{row['kind']}/{row['key']}" for row in cache.json("ls")["entries"]}


def test_an_entry_that_no_experiment_uses_goes_however_young_it_is(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    assert cache("drop", entry.key[:9]) == DONE
    assert cache.out.splitlines() == [
        f"{entry.entry_id}: 7 B",
        f"  Made again by: python -m pipeline.run --config FILE --home {cache.home} --stage targets",
        "1 entry, 7 B dropped",
    ]
    assert _places(cache) == {other.entry_id for name, other in made.items() if name != "unused"}
    assert not entry.folder.exists()


def test_an_entry_that_an_experiment_uses_is_refused_and_those_named_beside_it_stay(
    cache: Cache, made: dict[str, Entry]
) -> None:
    before = _places(cache)
    assert cache("drop", made["unused"].key, made["train bits"].key) == USER_MISTAKE
    entry_id = made["train bits"].entry_id
    assert cache.err.startswith(f"StoreError: {entry_id} is used by demo\n")
    assert f"  Next:    python -m pipeline.cache drop {entry_id} --used --dry-run --home {cache.home}" in cache.err
    assert _places(cache) == before


def test_an_entry_that_a_run_in_progress_needs_is_used(cache: Cache, made: dict[str, Entry]) -> None:
    refer(cache.home / "runs" / "new", "now", [made["unused"].entry_id])
    assert cache("drop", made["unused"].key) == USER_MISTAKE
    assert "is used by new" in cache.err


def test_where_it_is_not_known_what_an_experiment_uses_it_may_use_everything(cache: Cache, made: dict[str, Entry]) -> None:
    (leave_run(cache.home, "broken", []) / "metrics.json").write_text("{")
    assert cache("drop", made["unused"].key) == USER_MISTAKE
    assert f"{made['unused'].entry_id} may be used by broken, of which that is not known: metrics.json names no" in cache.err
    assert cache("drop", "--used", made["unused"].key) == DONE


def test_with_used_it_goes_and_the_command_that_makes_it_and_what_was_made_from_it_are_told(
    cache: Cache, made: dict[str, Entry]
) -> None:
    bits, student = made["train bits"], made["student"]
    assert cache("drop", "--used", bits.key) == DONE
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    again = f"python -m pipeline.cache drop {student.entry_id} --used --home {cache.home}"
    assert cache.out.splitlines() == [
        f"{bits.entry_id}: 7 B, used by demo",
        f"  Made again by: python -m pipeline.run --config {config} --home {cache.home} --stage targets",
        "  Made from it, and found by its key as before, although what is made in its place may have other bits:",
        f"    {student.entry_id}   (to make it again too: {again})",
        "1 entry, 7 B dropped",
    ]
    assert bits.entry_id not in _places(cache)


def test_what_was_made_from_crops_is_the_bits_and_all_students(cache: Cache, made: dict[str, Entry]) -> None:
    """By hand: the bits and both students name the crops, and of the other bits (``unused``) no experiment knows."""
    (dropped,) = cache.json("drop", "--used", "--dry-run", made["train view"].key)["dropped"]
    expected = {made[name].entry_id for name in ("train bits", "unused", "student", "baseline")}
    assert set(dropped["made_from_it"]) == expected
    assert "--used" not in dropped["made_from_it"][made["unused"].entry_id]


@pytest.mark.parametrize("name", ["train", "primary", "student", "report"])
def test_what_is_known_by_its_content_is_another_input_when_it_is_made_again(
    cache: Cache, made: dict[str, Entry], name: str
) -> None:
    """With other content it gives what is made from it another key, so nothing of the old is found by mistake."""
    (dropped,) = cache.json("drop", "--used", "--dry-run", made[name].key)["dropped"]
    assert dropped["made_from_it"] == {}


def test_what_is_dropped_together_is_not_told_to_be_left(cache: Cache, made: dict[str, Entry]) -> None:
    known = cache.json("drop", "--used", made["train bits"].key, made["student"].key)
    assert [item["made_from_it"] for item in known["dropped"]] == [{}, {}]
    assert known["bytes"] == 14
    assert {made["train bits"].entry_id, made["student"].entry_id} & _places(cache) == set()


def test_a_dry_run_says_the_same_and_removes_nothing(cache: Cache, made: dict[str, Entry]) -> None:
    before = _places(cache)
    known = cache.json("drop", "--used", "--dry-run", made["train bits"].key)
    assert cache("drop", "--used", "--dry-run", made["train bits"].key) == DONE
    assert cache.out.endswith("1 entry, 7 B to be dropped\n")
    assert _places(cache) == before
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


def test_an_entry_that_is_committed_as_its_damaged_manifest_goes_stays(cache: Cache, made: dict[str, Entry]) -> None:
    """A run sets the damaged one aside, and commits, after ``drop`` has looked."""
    entry = made["unused"]
    manifest = local(entry.folder).parent / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"")
    store = store_of(cache.home)
    item = next(item for item in garbage_at(store, entry.entry_id, tell=print) if item.what == "damaged manifest")
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


def test_what_a_teacher_taught_is_told_to_depend_on_the_same_coming_out_again(cache: Cache, made: dict[str, Entry]) -> None:
    """By hand: seniors and control stand on the primary, bits and students on those, and scores and the report on all."""
    (dropped,) = cache.json("drop", "--used", "--dry-run", made["primary"].key)["dropped"]
    lasting = {"train", "val", "primary", "val view", "train view", "baseline"}
    assert set(dropped["needs_it"]) == {entry.entry_id for name, entry in made.items() if name not in lasting}
    assert cache("drop", "--used", "--dry-run", made["student"].key) == DONE
    told = "  Made from it, and found again only if what is made in its place is the same: "
    assert [line for line in cache.out.splitlines() if line.startswith(told)] == [told + made["scores of student"].entry_id]


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
    assert cache.out.startswith(f"{gone.entry_id}: 7 B, used by demo\n  Made again by: python -m pipeline.run --config ")
    assert cache.out.endswith("\n1 entry, 7 B dropped\n")
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
