"""The store: finding, replacing and discarding entries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.errors import StoreError
from storage_schemas.paths.facts import FileProblem
from storage_schemas.paths.local import LocalPath
from storage_schemas.store import draft as draft_module
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import FILES, RECIPE, entries_of, fill, make_entry, signed


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def _found(store: Store, recipe: dict[str, Any] = RECIPE) -> Entry:
    entry = store.find("targets", recipe)
    assert entry is not None
    return entry


# What is found


def test_find_returns_the_entry_of_this_recipe_only(store: Store) -> None:
    made = make_entry(store, measured={"AP": 0.5})
    assert _found(store) == made
    assert _found(store, {**RECIPE, "size_wh": [192, 256]}) == made
    assert made.key == key_of("targets", RECIPE)
    assert made.measured == {"AP": 0.5}
    assert made.path("zarr.json").read_bytes() == b"{}"
    for other in ({**RECIPE, "threshold": 0.4}, {**RECIPE, "of": {"seed": 1}}, {"threshold": 0.5}):
        assert store.find("targets", other) is None
    assert store.find("views", RECIPE) is None


def test_draft_returns_the_committed_entry(store: Store) -> None:
    made = make_entry(store)
    with store.draft("targets", RECIPE) as draft:
        assert draft == made


def test_commit_deletes_all_files_that_the_entry_does_not_name(store: Store) -> None:
    made = make_entry(store)
    names = {path.relative_to(local(made.folder)).as_posix() for path in local(made.folder).rglob("*") if path.is_file()}
    assert names == set(FILES)
    assert {path.name for path in local(made.folder.parent).iterdir()} == {"manifest.json", made.folder.name}


def test_payload_does_not_depend_on_user_time_and_machine(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_entry(Store(tmp_path / "one"), measured={"AP": 0.5})
    elsewhere = {"at": "1999-01-01T00:00:00+00:00", "host": "elsewhere", "user": "somebody", "versions": {"ray": "0"}}
    monkeypatch.setattr(draft_module, "provenance", lambda: elsewhere)
    second = make_entry(Store(tmp_path / "two"), measured={"AP": 0.6})
    assert first.folder.name != second.folder.name
    assert first.manifest.encode() != second.manifest.encode()
    assert first.manifest.payload == second.manifest.payload
    assert second.manifest.made.items() >= elsewhere.items()


def test_draft_computes_the_payload_before_the_commit(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        before = draft.payload(FILES)
        assert draft.commit(FILES, measured={}).manifest.payload == before


def test_manifest_names_user_machine_and_duration(store: Store) -> None:
    made = make_entry(store).manifest.made
    assert {"at", "host", "user", "python", "platform", "versions", "seconds"} <= set(made)
    assert "numpy" in made["versions"]


# Manifests that are not used


def _damage_manifest(store: Store, change: Callable[[bytes], bytes]) -> Path:
    path = make_entry(store).folder.parent / "manifest.json"
    local(path).write_bytes(change(path.read_bytes()))
    return local(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-10], "is not a manifest"),
        (lambda data: b"", "is not a manifest"),
        (lambda data: data.replace(b'"threshold": 0.5', b'"threshold": 0.4'), "does not match its own sha256"),
        (lambda data: data.replace(b'"schema": 3', b'"schema": 4'), "does not match its own sha256"),
    ],
)
def test_draft_sets_a_damaged_manifest_aside(
    store: Store, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes], said: str
) -> None:
    damaged = _damage_manifest(store, change)
    assert store.find("targets", RECIPE) is None
    assert said in caplog.text
    assert entries_of(store) == []
    content = damaged.read_bytes()
    again = make_entry(store)
    assert _found(store) == again
    assert again.damaged() == {}
    (aside,) = damaged.parent.glob("manifest.json.damaged-*")
    assert aside.read_bytes() == content


def test_draft_sets_aside_a_folder_in_place_of_the_manifest(tmp_path: LocalPath, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    manifest = local(make_entry(store).folder.parent / "manifest.json")
    manifest.unlink()
    manifest.mkdir()
    assert store.find("targets", RECIPE) is None
    assert f"{manifest} is a folder" in caplog.text
    again = make_entry(store)
    assert _found(store) == again
    store.discard(again)
    make_entry(store)
    (aside,) = manifest.parent.glob("manifest.json.damaged-*")
    assert aside.is_dir(), "it is no writer's work, which the next one would take away"


@pytest.mark.parametrize("where", ["kind", "entry"])
def test_find_refuses_a_file_that_lies_where_a_folder_belongs(store: Store, where: str) -> None:
    entry = make_entry(store)
    folder = local(entry.folder).parent
    path = folder if where == "entry" else folder.parent
    shutil.rmtree(path)
    path.write_bytes(b"")
    for look in (
        lambda: store.find("targets", RECIPE),
        lambda: take_inventory(store),
        store.entry_folders,
        lambda: ExitStack().enter_context(store.draft("targets", RECIPE)),
    ):
        with pytest.raises(StoreError, match=f"^{path} is a file, and a folder belongs there\n"):
            look()


def test_find_refuses_a_manifest_that_it_may_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(store)

    def broken(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read \(Permission denied\)") as caught:
        store.find("targets", RECIPE)
    assert suggested(caught.value) == f"python -m pipeline.cache verify {entry.entry_id} --home {local(store.root).parent}"


def test_find_returns_none_without_a_manifest(store: Store) -> None:
    made = make_entry(store)
    (made.folder.parent / "manifest.json").unlink()
    assert store.find("targets", RECIPE) is None


def test_find_ignores_the_manifest_of_another_entry(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    other = make_entry(store, {**RECIPE, "threshold": 0.4})
    made = make_entry(store)
    local(made.folder.parent / "manifest.json").write_bytes((other.folder.parent / "manifest.json").read_bytes())
    assert store.find("targets", RECIPE) is None
    assert f"belongs to another entry, targets/{other.key}" in caplog.text
    assert entries_of(store) == [other]


# Taking out, and looking around


def test_replace_keeps_the_old_entry_until_the_commit(store: Store) -> None:
    old = make_entry(store)
    store.replace(old)
    assert store.find("targets", RECIPE) is None
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert draft.parts() == {}, "nothing of the old one is taken over"
        assert Store(store.root).find("targets", RECIPE) == old
    assert Store(store.root).find("targets", RECIPE) == old
    assert old.damaged() == {}
    again = make_entry(store)
    assert again.folder != old.folder
    assert _found(store) == Store(store.root).find("targets", RECIPE) == again
    assert not old.folder.is_dir()
    assert again.damaged() == {}


def test_draft_returns_the_entry_that_another_run_rebuilt(store: Store) -> None:
    old = make_entry(store)
    store.replace(old)
    other = Store(store.root)
    other.replace(old)
    again = make_entry(other)
    with store.draft("targets", RECIPE) as found:
        assert found == again
    assert _found(store) == again


def test_commit_returns_the_entry_that_another_run_rebuilt_meanwhile(store: Store) -> None:
    old = make_entry(store)
    store.replace(old)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        old_manifest = local(old.folder).parent / "manifest.json"
        old_manifest.unlink()
        other = replace(old, folder=old.folder.with_name("another"))
        local(old.folder).rename(local(other.folder))
        data = json.loads(old.manifest.encode())
        old_manifest.write_bytes(signed({**data, "folder": "another"}))
        assert draft.commit(FILES, measured={}).folder == other.folder
    assert other.damaged() == {}


def test_discard_deletes_the_manifest_before_any_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    seen: list[tuple[bool, dict[str, FileProblem]]] = []

    def rmtree(folder: LocalPath, *, ignore_errors: bool) -> None:
        seen.append(((folder.parent / "manifest.json").exists(), made.damaged()))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    store.discard(made)
    assert seen == [(False, {})]


def test_a_discarded_entry_can_be_rebuilt(store: Store) -> None:
    made = make_entry(store)
    store.discard(made)
    assert store.find("targets", RECIPE) is None
    assert not made.folder.exists()
    assert make_entry(store).damaged() == {}


def test_discard_keeps_the_entry_that_another_run_rebuilt(store: Store) -> None:
    old = make_entry(store)
    store.discard(old)
    new = make_entry(store)
    store.discard(old)
    assert _found(store) == new
    assert new.damaged() == {}


def test_the_inventory_names_another_schema_version(store: Store) -> None:
    made = make_entry(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage_schemas.store.manifest.SCHEMA_VERSION", 4)
        patch.setattr("storage_schemas.store.recipe.SCHEMA_VERSION", 4)
        newer = replace(made.manifest, key=key_of("targets", RECIPE)).encode()
    local(made.folder.parent / "manifest.json").write_bytes(newer)
    inventory = take_inventory(store)
    assert not inventory.entries
    assert "schema version 4" in inventory.unreadable[made.entry_id].seen
    assert Manifest.decode(made.manifest.encode(), where="here") == made.manifest
