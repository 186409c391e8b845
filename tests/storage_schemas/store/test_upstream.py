"""A store with an upstream store, which is only read."""

from __future__ import annotations

from typing import Any

import pytest

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, RECIPE, make_entry

OTHER = {**RECIPE, "threshold": 0.4}


@pytest.fixture(params=["folder", "bucket"])
def team(request: pytest.FixtureRequest, tmp_path: LocalPath) -> Store:
    """A store with one entry, which nothing may change from here on."""
    if request.param == "bucket":
        bucket: BucketPath = request.getfixturevalue("bucket")
        store = Store(bucket / "team" / "store")
    else:
        store = Store(tmp_path / "team" / "store")
    make_entry(store)
    return store


@pytest.fixture
def own(team: Store, tmp_path: LocalPath) -> Store:
    return Store(tmp_path / "own" / "store", upstream=Store(team.root))


def _state(path: StorePath) -> dict[str, Any]:
    return dict(path.files_below())


def _found(store: Store, recipe: dict[str, Any] = RECIPE) -> Entry:
    entry = store.find("targets", recipe)
    assert entry is not None
    return entry


def test_find_returns_an_upstream_entry(own: Store, team: Store) -> None:
    before = _state(team.root)
    entry = _found(own)
    assert (entry.is_borrowed, entry.folder.parent.parent.parent) == (True, team.root)
    assert entry.path("bits/c/0").read_bytes() == CONTENT["bits/c/0"]
    with own.draft("targets", RECIPE) as draft:
        assert draft == entry
    assert _state(team.root) == before
    assert not any(name.endswith("manifest.json") for name in own.root.files_below())


def test_draft_builds_a_missing_entry_in_the_own_store(own: Store, team: Store) -> None:
    before = _state(team.root)
    assert own.find("targets", OTHER) is None
    made = make_entry(own, OTHER)
    assert (made.is_borrowed, _found(own, OTHER)) == (False, made)
    assert made.folder.mirror().is_relative_to(own.root.mirror())
    assert _state(team.root) == before
    assert team.find("targets", OTHER) is None


def test_find_prefers_the_own_entry(own: Store, team: Store) -> None:
    mine = make_entry(Store(own.root))
    assert _found(own) == mine
    assert _found(own).folder != _found(team).folder


def test_a_forced_entry_is_built_in_the_own_store(own: Store, team: Store) -> None:
    before = _state(team.root)
    own.replace(_found(own))
    assert own.find("targets", RECIPE) is None
    with own.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
    mine = make_entry(own)
    assert _found(own) == mine
    own.replace(mine)
    assert own.find("targets", RECIPE) is None
    assert make_entry(own).folder != mine.folder
    assert not mine.folder.is_dir()
    assert _state(team.root) == before


def test_check_reports_upstream_damage_with_a_possible_remedy(own: Store, team: Store) -> None:
    entry = _found(own)
    damaged = entry.folder / "bits/c/0"
    damaged.unlink(missing_ok=True)
    with pytest.raises(CorruptEntryError, match="bits/c/0 is missing") as caught:
        entry.check()
    assert "--stage targets --force" in suggested(caught.value)
    assert "an entry of your own" in caught.value.allowed


def test_own_damage_is_repaired_from_the_upstream_store(own: Store, team: Store) -> None:
    mine = make_entry(Store(own.root))
    home = team.root.parent
    (mine.folder / "bits/c/0").unlink()
    with pytest.raises(CorruptEntryError) as caught:
        mine.check(upstream=home)
    assert (
        suggested(caught.value) == f"python -m pipeline.cache repair {mine.entry_id} --home {own.root.parent} --upstream {home}"
    )


def test_a_changed_byte_in_a_bucket_is_repaired_like_a_missing_object(bucket: BucketPath, tmp_path: LocalPath) -> None:
    """It is found only as the object comes down."""
    mine = make_entry(Store(bucket / "own" / "store"))
    make_entry(Store(tmp_path / "store"))
    name = "bits/c/0"
    damaged = mine.folder / name
    assert isinstance(damaged, BucketPath)
    damaged.write_atomic(bytes([CONTENT[name][0] ^ 1]) + CONTENT[name][1:])
    (mine.folder.mirror() / name).unlink()
    with pytest.raises(CorruptEntryError) as caught:
        mine.check(upstream=tmp_path)
    assert (
        suggested(caught.value)
        == f"python -m pipeline.cache repair {mine.entry_id} --home {bucket / 'own'} --upstream {tmp_path}"
    )
