"""The store: what is found, what is refused, and what is taken out of it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.errors import CorruptEntryError, MissingInputError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store import draft as draft_module
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, FILES, RECIPE, fill, flip_bit, make_entry, signed, truncate


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def _found(store: Store, recipe: dict[str, Any] = RECIPE) -> Entry:
    entry = store.find("targets", recipe)
    assert entry is not None
    return entry


# What is found


def test_an_entry_is_found_by_its_recipe_and_by_no_other(store: Store) -> None:
    made = make_entry(store, measured={"AP": 0.5})
    assert _found(store) == made
    assert _found(store, {**RECIPE, "size_wh": [192, 256]}) == made
    assert made.key == key_of("targets", RECIPE)
    assert made.measured == {"AP": 0.5}
    assert made.path("zarr.json").read_bytes() == b"{}"
    for other in ({**RECIPE, "threshold": 0.4}, {**RECIPE, "of": {"seed": 1}}, {"threshold": 0.5}):
        assert store.find("targets", other) is None
    assert store.find("views", RECIPE) is None


def test_a_second_draft_of_a_committed_entry_is_that_entry(store: Store) -> None:
    made = make_entry(store)
    with store.draft("targets", RECIPE) as draft:
        assert draft == made


def test_an_entry_keeps_its_own_files_and_nothing_else(store: Store) -> None:
    made = make_entry(store)
    names = {path.relative_to(local(made.folder)).as_posix() for path in local(made.folder).rglob("*") if path.is_file()}
    assert names == set(FILES)
    assert {path.name for path in local(made.folder.parent).iterdir()} == {"manifest.json", made.folder.name}


def test_the_payload_does_not_depend_on_who_made_it_when_and_where(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_entry(Store(tmp_path / "one"), measured={"AP": 0.5})
    elsewhere = {"at": "1999-01-01T00:00:00+00:00", "host": "elsewhere", "user": "somebody", "versions": {"ray": "0"}}
    monkeypatch.setattr(draft_module, "provenance", lambda: elsewhere)
    second = make_entry(Store(tmp_path / "two"), measured={"AP": 0.6})
    assert first.folder.name != second.folder.name
    assert first.manifest.encode() != second.manifest.encode()
    assert first.manifest.payload == second.manifest.payload
    assert second.manifest.made.items() >= elsewhere.items()


def test_the_payload_is_known_before_the_commit(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        before = draft.payload(FILES)
        assert draft.commit(FILES, measured={}).manifest.payload == before


def test_the_manifest_says_who_made_the_entry_and_how_long_it_took(store: Store) -> None:
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
def test_a_damaged_manifest_counts_as_not_there_and_is_set_aside(
    store: Store, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes], said: str
) -> None:
    damaged = _damage_manifest(store, change)
    assert store.find("targets", RECIPE) is None
    assert said in caplog.text
    assert list(store.entries("targets")) == []
    content = damaged.read_bytes()
    again = make_entry(store)
    assert _found(store) == again
    assert again.problems() == []
    (aside,) = damaged.parent.glob("manifest.json.damaged-*")
    assert aside.read_bytes() == content


def test_a_folder_in_a_manifests_place_is_set_aside(tmp_path: LocalPath, caplog: pytest.LogCaptureFixture) -> None:
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
def test_a_file_where_a_folder_belongs_is_neither_an_entry_nor_none(store: Store, where: str) -> None:
    entry = make_entry(store)
    folder = local(entry.folder).parent
    path = folder if where == "entry" else folder.parent
    shutil.rmtree(path)
    path.write_bytes(b"")
    for look in (
        lambda: store.find("targets", RECIPE),
        lambda: list(store.entries("targets")),
        store.entry_folders,
        lambda: ExitStack().enter_context(store.draft("targets", RECIPE)),
    ):
        with pytest.raises(StoreError, match=f"^{path} is a file, and a folder belongs there\n"):
            look()


def test_of_a_manifest_that_this_user_may_not_read_nothing_is_known(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(store)

    def broken(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read \(Permission denied\)") as caught:
        store.find("targets", RECIPE)
    assert suggested(caught.value) == f"python -m pipeline.cache verify {entry.entry_id} --home {local(store.root).parent}"


def test_a_missing_manifest_is_a_missing_entry(store: Store) -> None:
    made = make_entry(store)
    (made.folder.parent / "manifest.json").unlink()
    assert store.find("targets", RECIPE) is None


def test_a_manifest_of_another_entry_is_not_used(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    other = make_entry(store, {**RECIPE, "threshold": 0.4})
    made = make_entry(store)
    local(made.folder.parent / "manifest.json").write_bytes((other.folder.parent / "manifest.json").read_bytes())
    assert store.find("targets", RECIPE) is None
    assert f"belongs to another entry, targets/{other.key}" in caplog.text
    assert list(store.entries("targets")) == [other]


# Files that are not as they were


def _swap(path: Path) -> None:
    other = path.with_name("1")
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_only_what_was_lost_is_put_back(store: Store, tmp_path: LocalPath) -> None:
    made = make_entry(store)
    shard, other = made.path("bits/c/0"), tmp_path / "made again"
    truth = shard.read_bytes()
    shard.unlink()
    for wrong in (truth[:-1], truth[:-1] + b"?", b""):
        other.write_bytes(wrong)
        assert not made.put_back("bits/c/0", other)
        assert not shard.exists()
    assert not made.put_back("bits/c/0", tmp_path / "not made")
    other.write_bytes(truth)
    assert made.put_back("bits/c/0", other)
    assert made.problems() == []
    assert not other.exists()


@pytest.mark.parametrize("where", ["bits/c/0", "bits/c", "bits"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_lies_in_the_way_of_a_lost_file_goes(store: Store, tmp_path: LocalPath, where: str, what: str) -> None:
    made, other = make_entry(store), tmp_path / "made again"
    for name in ("bits/c/0", "bits/c/1"):
        made.path(name).unlink()
    path = made.path("bits/c/0").parents[2] / where
    if path.is_dir():
        shutil.rmtree(path)
    if what == "file":
        path.write_text("in the way")
    else:
        path.mkdir()
        (path / "something").write_text("in the way")
    for name in ("bits/c/0", "bits/c/1"):
        other.write_bytes(CONTENT[name])
        assert made.put_back(name, other)
    assert made.problems() == []


def test_nothing_is_put_back_into_an_entry_that_was_discarded(store: Store, tmp_path: LocalPath) -> None:
    made, other = make_entry(store), tmp_path / "made again"
    other.write_bytes(CONTENT["bits/c/0"])
    store.discard(made)
    with pytest.raises(MissingInputError, match=f"{made.entry_id} was deleted"):
        made.put_back("bits/c/0", other)
    assert not made.folder.exists()


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "", ".", "bits", "bits/c/2", "zarr.json/"])
def test_a_name_that_the_manifest_does_not_cover_leads_nowhere(store: Store, name: str) -> None:
    made = make_entry(store)
    with pytest.raises(CorruptEntryError, match="has no file"):
        made.path(name)
    assert made.path("bits/c/1").read_bytes() == CONTENT["bits/c/1"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "bits/c/0 is missing"),
        (_replace_by_folder, "bits/c/0 is missing"),
        (lambda path: path.write_bytes(b""), "bits/c/0 has 0 bytes where the manifest says 11"),
        (truncate, "bits/c/0 has 10 bytes where the manifest says 11"),
        (flip_bit, "bits/c/0 does not match its sha256"),
        (_swap, r"bits/c/0 does not match its sha256 \(and 1 more\)"),
    ],
)
def test_a_damaged_file_is_named(store: Store, damage: Callable[[Path], None], said: str) -> None:
    made = make_entry(store)
    made.check()
    damage(made.path("bits/c/0"))
    with pytest.raises(CorruptEntryError, match=f"targets/{made.key}: {said}") as caught:
        made.check()
    assert suggested(caught.value) == f"python -m pipeline.cache repair {made.entry_id} --home {store.root.parent}"


def test_a_file_that_cannot_be_read_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)

    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalPath, "sha256", broken)
    assert made.problems()[0] == "bits/c/0 cannot be read (Input/output error)"


# Taking out, and looking around


def test_an_entry_that_is_to_be_made_again_stays_until_another_is_there(store: Store) -> None:
    old = make_entry(store)
    store.replace(old)
    assert store.find("targets", RECIPE) is None
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert draft.parts() == {}, "nothing of the old one is taken over"
        assert Store(store.root).find("targets", RECIPE) == old
    assert Store(store.root).find("targets", RECIPE) == old
    assert old.problems() == []
    again = make_entry(store)
    assert again.folder != old.folder
    assert _found(store) == Store(store.root).find("targets", RECIPE) == again
    assert not old.folder.is_dir()
    assert again.problems() == []


def test_what_another_run_has_made_again_meanwhile_is_not_made_once_more(store: Store) -> None:
    old = make_entry(store)
    store.replace(old)
    other = Store(store.root)
    other.replace(old)
    again = make_entry(other)
    with store.draft("targets", RECIPE) as found:
        assert found == again
    assert _found(store) == again


def test_an_entry_that_was_made_again_while_this_one_was_is_given_way_to(store: Store) -> None:
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
    assert other.problems() == []


def test_discard_removes_the_manifest_before_any_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    seen: list[tuple[bool, list[str]]] = []

    def rmtree(folder: LocalPath, *, ignore_errors: bool) -> None:
        seen.append(((folder.parent / "manifest.json").exists(), made.problems()))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    store.discard(made)
    assert seen == [(False, [])]


def test_a_discarded_entry_is_gone_and_can_be_made_again(store: Store) -> None:
    made = make_entry(store)
    store.discard(made)
    assert store.find("targets", RECIPE) is None
    assert not made.folder.exists()
    assert make_entry(store).problems() == []


def test_discard_leaves_an_entry_that_another_run_has_made_since(store: Store) -> None:
    old = make_entry(store)
    store.discard(old)
    new = make_entry(store)
    store.discard(old)
    assert _found(store) == new
    assert new.problems() == []


def test_nearest_is_the_entry_that_differs_least_and_of_equals_the_newest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.nearest("targets", RECIPE) is None
    for day, recipe in enumerate(
        [{**RECIPE, "threshold": 0.4}, {**RECIPE, "threshold": 0.3}, {**RECIPE, "threshold": 0.2, "of": {"seed": 1}}]
    ):
        monkeypatch.setattr(draft_module, "provenance", lambda day=day: {"at": f"2024-01-0{day + 1}"})
        make_entry(store, recipe)
    make_entry(Store(store.root), {"quite": "another"})
    found = store.nearest("targets", RECIPE)
    assert found is not None
    assert found[0].manifest.recipe["threshold"] == 0.3
    assert found[1] == [("threshold", 0.5, 0.3)]


def test_entries_skip_what_was_taken_out_meanwhile(store: Store) -> None:
    entries = [make_entry(store, {**RECIPE, "threshold": value}) for value in (0.1, 0.2, 0.3)]
    listing = store.entries("targets")
    seen = [next(listing)]
    (left,) = {entry.key for entry in entries if entry != seen[0]} - {max(entry.key for entry in entries)}
    store.discard(next(entry for entry in entries if entry.key == left))
    assert [*seen, *listing] == sorted((entry for entry in entries if entry.key != left), key=lambda entry: entry.key)


def test_another_schema_version_is_passed_over_in_a_listing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    made = make_entry(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage_schemas.store.manifest.SCHEMA_VERSION", 4)
        patch.setattr("storage_schemas.store.recipe.SCHEMA_VERSION", 4)
        newer = replace(made.manifest, key=key_of("targets", RECIPE)).encode()
    local(made.folder.parent / "manifest.json").write_bytes(newer)
    with caplog.at_level(logging.WARNING):
        assert list(store.entries("targets")) == []
    assert "schema version 4" in caplog.text
    assert Manifest.decode(made.manifest.encode(), where="here") == made.manifest
