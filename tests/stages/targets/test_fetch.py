"""Damaged files are replaced from another store with the same entry; each store is a folder or a bucket."""

from __future__ import annotations

import pytest

from stages.targets.repair import fetch
from storage_schemas.errors import MissingInputError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.store import Entry, Store
from tests.support.buckets import local
from tests.support.store_samples import CONTENT, make_entry

FIRST, SECOND = list(CONTENT)[:2]


def _entry(request: pytest.FixtureRequest, kind: str, folder: LocalPath, name: str) -> Entry:
    path: StorePath = folder
    if kind == "bucket":
        bucket: BucketPath = request.getfixturevalue("bucket")
        path = bucket
    return make_entry(Store(path / name / "store"))


@pytest.fixture(params=["folder", "bucket"])
def own(request: pytest.FixtureRequest, tmp_path: LocalPath) -> Entry:
    return _entry(request, request.param, tmp_path, "own")


@pytest.fixture(params=["folder", "bucket"])
def team(request: pytest.FixtureRequest, tmp_path: LocalPath) -> Entry:
    return _entry(request, request.param, tmp_path, "team")


def _damage(entry: Entry, name: str) -> None:
    file = entry.folder / name
    data = file.read_bytes()
    flipped = bytes([data[0] ^ 1]) + data[1:]
    if isinstance(file, BucketPath):
        file.write_atomic(flipped)
        # This node made the entry, and has an intact copy.
        (entry.folder.mirror() / name).unlink()
    else:
        local(file).write_bytes(flipped)


def test_damaged_files_are_replaced_by_the_teams_and_others_stay(own: Entry, team: Entry) -> None:
    home = team.folder.parents[3]
    twin = own.twin(home)
    assert twin is not None
    assert twin.folder == team.folder
    (own.folder / FIRST).unlink()
    _damage(own, SECOND)
    before = team.folder.files_below()
    assert fetch(own, twin, [FIRST, SECOND]) == [FIRST, SECOND]
    assert own.damaged() == {}
    assert own.path(FIRST).read_bytes() == CONTENT[FIRST]
    assert set(own.folder.files_below()) == set(own.manifest.files), "nothing is left beside them"
    assert team.folder.files_below() == before


def test_a_file_that_is_damaged_in_both_stores_stays(own: Entry, team: Entry, caplog: pytest.LogCaptureFixture) -> None:
    for entry in (own, team):
        _damage(entry, FIRST)
    (own.folder / SECOND).unlink()
    assert fetch(own, team, [FIRST, SECOND]) == [SECOND]
    assert list(own.damaged()) == [FIRST]
    (team.folder / FIRST).unlink()
    assert fetch(own, team, [FIRST]) == []
    assert f"{FIRST} of {team.folder} cannot be read" in caplog.text


def test_an_entry_deleted_during_the_copy_is_an_error_and_is_not_recreated(own: Entry, team: Entry) -> None:
    Store(own.folder.parents[2]).discard(own)
    with pytest.raises(MissingInputError, match=f"{own.entry_id} was deleted"):
        fetch(own, team, [FIRST])
    assert not any(name.endswith(FIRST) for name in own.folder.parents[2].files_below())
