"""Verifying the files of entries."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from storage_schemas.paths.local import LocalPath
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import Damage, verify
from tests.support.buckets import local
from tests.support.store_samples import FILES, RECIPE, make_entry


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def _verify(store: Store, advance: Callable[[], None] = lambda: None) -> dict[str, Damage]:
    return verify(take_inventory(store), advance=advance)


def test_verify_finds_no_problem_in_intact_entries(store: Store) -> None:
    for threshold in (0.5, 0.4):
        make_entry(store, {**RECIPE, "threshold": threshold})
    seen: list[None] = []
    assert _verify(store, lambda: seen.append(None)) == {}
    # Two entries of three files.
    assert len(seen) == 6


def _flip(entry: Entry) -> None:
    data = bytearray(entry.path("bits/c/1").read_bytes())
    data[5] ^= 1
    entry.path("bits/c/1").write_bytes(data)


def _swap(entry: Entry) -> None:
    first, second = entry.path("bits/c/0"), entry.path("bits/c/1")
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, ["bits/c/1 does not match its sha256"]),
        (lambda entry: entry.path("bits/c/0").write_bytes(b"first"), ["bits/c/0 has 5 bytes where the manifest says 11"]),
        (lambda entry: entry.path("zarr.json").unlink(), ["zarr.json is missing"]),
        (lambda entry: entry.path("zarr.json").write_bytes(b""), ["zarr.json has 0 bytes where the manifest says 2"]),
        (_swap, ["bits/c/0 does not match its sha256", "bits/c/1 does not match its sha256"]),
        (lambda entry: shutil.rmtree(entry.folder), [f"{name} is missing" for name in FILES]),
    ],
    ids=["a flipped bit", "truncated", "missing", "empty", "swapped", "all gone"],
)
def test_verify_names_each_damaged_file(store: Store, damage: Callable[[Entry], object], said: list[str]) -> None:
    make_entry(store, {**RECIPE, "threshold": 0.4})
    made = make_entry(store)
    damage(made)
    assert {entry_id: sorted(damage.problems) for entry_id, damage in _verify(store).items()} == {made.entry_id: sorted(said)}


def test_verify_reports_an_unreadable_manifest(store: Store) -> None:
    made = make_entry(store)
    local(made.folder.parent / "manifest.json").write_bytes(b"")
    damaged = _verify(store)
    assert list(damaged) == [made.entry_id]
    assert "is not a manifest" in damaged[made.entry_id].problems[0]


def test_files_that_no_manifest_names_are_no_damage(store: Store) -> None:
    made = make_entry(store)
    local(made.folder / "bits/c/2").write_bytes(b"left")
    local(made.folder / "link").symlink_to(local(made.folder / "zarr.json"))
    assert _verify(store) == {}


@pytest.mark.parametrize("again", [False, True])
def test_verify_skips_an_entry_that_is_deleted_meanwhile(store: Store, again: bool) -> None:
    made = make_entry(store)
    done: list[str] = []

    def take_out() -> None:
        if not done:
            store.discard(made)
            if again:
                make_entry(store)
        done.append("")

    assert _verify(store, take_out) == {}
