"""The inventory: reading all manifests, finding an entry by its key, and tracing what it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage_schemas.errors import ConfigError, CorruptEntryError, MissingInputError, SchemaVersionError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.inventory import entry_ids, find_entry, find_entry_id, take_inventory
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Store
from tests.support.buckets import local
from tests.support.cache_samples import a_home, put, store_of
from tests.support.store_samples import make_entry, signed


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return store_of(tmp_path)


def test_take_inventory_returns_every_entry(tmp_path: LocalPath, store: Store) -> None:
    made = a_home(tmp_path)
    inventory = take_inventory(store)
    assert dict(inventory.entries) == {entry.entry_id: entry for entry in made.values()}
    assert inventory.unreadable == {}
    assert entry_ids(store) == sorted(entry.entry_id for entry in made.values())


def test_a_missing_store_is_empty(store: Store) -> None:
    assert entry_ids(store) == []
    assert take_inventory(store).entries == {}


def test_a_folder_without_a_manifest_is_no_entry(store: Store) -> None:
    made = make_entry(store)
    (made.folder.parent / "manifest.json").unlink()
    assert entry_ids(store) == []


def test_take_inventory_names_an_unusable_manifest(store: Store) -> None:
    good, damaged, newer, folder = (put(store, "views", {"view": number}) for number in range(4))
    path = damaged.folder.parent / "manifest.json"
    local(path).write_bytes(path.read_bytes()[:-9])
    path = newer.folder.parent / "manifest.json"
    local(path).write_bytes(signed({**json.loads(path.read_bytes()), "schema": 7}))
    path = folder.folder.parent / "manifest.json"
    path.unlink()
    path.make_folder()
    inventory = take_inventory(store)
    assert list(inventory.entries) == [good.entry_id]
    errors = inventory.unreadable
    assert {entry_id: type(error) for entry_id, error in errors.items()} == {
        damaged.entry_id: CorruptEntryError,
        newer.entry_id: SchemaVersionError,
        folder.entry_id: CorruptEntryError,
    }
    assert "is not a manifest" in errors[damaged.entry_id].seen
    assert "schema version 7" in errors[newer.entry_id].seen
    assert "manifest.json is a folder" in errors[folder.entry_id].seen


def test_take_inventory_reports_an_unreadable_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = put(store, "views", {"view": 1})

    def broken(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(CorruptEntryError, match=r"manifest\.json cannot be read \(Input/output error\)"):
        find_entry(store, made.entry_id)


def test_take_inventory_skips_an_entry_that_is_deleted_meanwhile(store: Store) -> None:
    made = make_entry(store)
    store.discard(made)
    with pytest.raises(MissingInputError, match=f"no entry {made.entry_id}"):
        find_entry(store, made.entry_id)


# Which entry a key means


@pytest.mark.parametrize(
    "spelling", ["{key}", "{short}", "targets/{key}", "targets/{short}", "targets/{key}/", "{root}/targets/{key}"]
)
def test_find_entry_id_accepts_the_beginning_of_a_key(store: Store, spelling: str) -> None:
    made = make_entry(store)
    put(store, "views", {"view": 1})
    assert find_entry_id(store, spelling.format(key=made.key, short=made.key[:6], root=store.root)) == made.entry_id


@pytest.mark.parametrize(
    "text", ["", "no such", "views/{key}", "target/{key}", "{key}0", "targets/{key}/manifest.json", "../{key}"]
)
def test_find_entry_id_refuses_an_unknown_key(store: Store, text: str) -> None:
    made = make_entry(store)
    with pytest.raises(ConfigError, match="has a key that begins with"):
        find_entry_id(store, text.format(key=made.key))


def test_find_entry_id_names_all_matching_keys(store: Store) -> None:
    made = [f"{kind}/{key_of(kind, {'view': number})}" for kind in ("views", "targets") for number in range(20)]
    for entry_id in made:
        (store.root / entry_id).make_folders()
        local(store.root / entry_id / "manifest.json").touch()
    digits = [entry_id.partition("/")[2][0] for entry_id in made]
    common = next(digit for digit in digits if digits.count(digit) > 1)
    several = sorted(entry_id for entry_id in made if entry_id.partition("/")[2][0] == common)
    with pytest.raises(ConfigError, match=f"'{common}' is the beginning of {len(several)} keys: {several[0]}, ") as caught:
        find_entry_id(store, common)
    assert ("more" in caught.value.seen) == (len(several) > 5)


# What an entry was made from


def test_made_from_finds_entries_by_key_and_by_content(tmp_path: LocalPath, store: Store) -> None:
    made = a_home(tmp_path)
    inventory = take_inventory(store)

    def of(name: str) -> dict[str, str]:
        return inventory.made_from(made[name])

    assert of("train") == {}
    assert of("senior") == {made["primary"].entry_id: "base"}
    assert of("train bits") == {made["train view"].entry_id: "view", made["primary"].entry_id: "teacher"}
    assert of("student") == {
        made["train"].entry_id: "instances",
        made["train view"].entry_id: "epochs[0].view",
        made["train bits"].entry_id: "epochs[0].primary",
    }
    assert of("scores without") == {made["senior"].entry_id: "network", made["val"].entry_id: "instances"}
    assert of("report") == {
        made[name].entry_id: f"made_from[{number}].entry" for number, name in enumerate(("train", "val", "primary", "control"))
    }


def test_made_from_skips_a_deleted_entry(tmp_path: LocalPath, store: Store) -> None:
    made = a_home(tmp_path)
    store.discard(made["train view"])
    assert take_inventory(store).made_from(made["train bits"]) == {made["primary"].entry_id: "teacher"}


def test_made_from_names_all_entries_of_equal_content(store: Store) -> None:
    twins = [put(store, "teachers", {"seed": seed}, {"content": "the same"}) for seed in (0, 1)]
    scores = put(store, "evaluations", {"network": "the same"})
    assert set(take_inventory(store).made_from(scores)) == {twin.entry_id for twin in twins}


def test_take_inventory_reads_only_the_named_entries(tmp_path: LocalPath, store: Store) -> None:
    made = a_home(tmp_path)
    broken = made["val"].folder.parent / "manifest.json"
    local(broken).write_text("{")
    part = take_inventory(store, {made["train"].entry_id, made["val"].entry_id})
    assert (list(part.entries), list(part.unreadable)) == ([made["train"].entry_id], [made["val"].entry_id])
