"""Imports give back what was exported, and never an incomplete or damaged entry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from storage_schemas.errors import CorruptEntryError, OdkdError, StoreError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store
from storage_schemas.store.transfer import import_entry, open_export
from tests.support.archive_samples import (
    BOTH,
    OTHER,
    content_of,
    exported,
    find_targets,
    imported,
    is_untouched,
    of_first,
    two_entries,
    write_tar,
)
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, FILES, RECIPE, fill, make_entry, signed


@pytest.fixture
def entries(tmp_path: LocalPath) -> list[Entry]:
    return two_entries(tmp_path / "from")


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path / "to")


# What comes in


@BOTH
def test_what_comes_in_is_what_went_out(tmp_path: LocalPath, store: Store, entries: list[Entry], name: str) -> None:
    seen: list[None] = []
    assert imported(store, exported(entries, tmp_path / name), lambda: seen.append(None)) == ["imported", "imported"]
    assert len(seen) == 6
    for before, recipe in zip(entries, (RECIPE, OTHER), strict=True):
        after = find_targets(store, recipe)
        assert after is not None
        assert after.damaged() == {}
        assert {file: after.path(file).read_bytes() for file in FILES} == CONTENT
        for field in ("kind", "key", "recipe", "files", "measured", "made", "payload"):
            assert getattr(after.manifest, field) == getattr(before.manifest, field)
        names = {path.name for path in local(after.folder.parent).iterdir()}
        assert names == {"manifest.json", after.folder.name}


@BOTH
def test_what_is_there_already_stays(tmp_path: LocalPath, store: Store, entries: list[Entry], name: str) -> None:
    mine = make_entry(store)
    seen: list[None] = []
    outcomes = imported(store, exported(entries, tmp_path / name), lambda: seen.append(None))
    assert (outcomes, len(seen)) == (["exists already", "imported"], 6)
    assert find_targets(store) == mine


def test_of_other_bits_under_the_same_key_those_in_the_store_stay_and_it_is_said(
    tmp_path: LocalPath, store: Store, entries: list[Entry]
) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        local(draft.folder / "zarr.json").write_bytes(b"{ }")
        mine = draft.commit(FILES, measured={})
    assert imported(store, exported(entries, tmp_path / "out")) == ["exists already, with other bits", "imported"]
    assert find_targets(store) == mine
    assert mine.path("zarr.json").read_bytes() == b"{ }"


def test_a_damaged_manifest_in_the_store_is_set_aside(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    manifest = make_entry(store).folder.parent / "manifest.json"
    local(manifest).write_bytes(b"{")
    assert imported(store, exported(entries[:1], tmp_path / "out")) == ["imported"]
    found = find_targets(store)
    assert found is not None
    assert found.damaged() == {}
    assert len(list(local(manifest.parent).glob("manifest.json.damaged-*"))) == 1


def test_bits_that_a_dead_writer_left_are_not_mixed_in(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        local(draft.folder / "bits/c/0").write_bytes(b"their shard")
        finish_part(draft.folder, "block-0", ["bits/c/0"])
    assert imported(store, exported(entries, tmp_path / "out")) == ["imported", "imported"]
    found = find_targets(store)
    assert found is not None
    assert found.manifest.payload == entries[0].manifest.payload
    assert found.damaged() == {}
    assert (draft.folder / "bits/c/0").read_bytes() == b"their shard", "nor written over"


def test_an_entry_without_files_comes_in(tmp_path: LocalPath, store: Store) -> None:
    with Store(tmp_path / "from").draft("reports", {"of": "nothing"}) as draft:
        assert isinstance(draft, Draft)
        empty = draft.commit([], measured={})
    assert imported(store, exported([empty], tmp_path / "empty.tar")) == ["imported"]


# Damage


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"first sharD", "is damaged: {entry_id}, bits/c/0 does not match its sha256"),
        (b"first", "is damaged: {entry_id}, bits/c/0 has 5 bytes where the manifest says 11"),
        (b"", "is damaged: {entry_id}, bits/c/0 has 0 bytes where the manifest says 11"),
        (None, "is damaged: {entry_id}, bits/c/0 is missing"),
    ],
)
def test_a_damaged_file_keeps_its_entry_out_and_is_named(
    tmp_path: LocalPath, store: Store, entries: list[Entry], as_tar: bool, data: bytes | None, said: str
) -> None:
    source = exported(entries[:1], tmp_path / "out")
    path = source / of_first(entries, "bits/c/0")
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    if as_tar:
        write_tar(tmp_path / "out.tar", content_of(source))
        source = tmp_path / "out.tar"
    with pytest.raises(CorruptEntryError) as caught:
        imported(store, source)
    assert caught.value.seen == f"{source} {said.format(entry_id=entries[0].entry_id)}"
    assert find_targets(store) is None
    assert is_untouched(store)


def test_swapped_files_are_noticed(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    files = content_of(exported(entries[:1], tmp_path / "out"))
    first, second = (of_first(entries, f"bits/c/{number}") for number in (0, 1))
    files[first], files[second] = files[second], files[first]
    write_tar(tmp_path / "out.tar", files)
    with pytest.raises(CorruptEntryError, match="bits/c/0 does not match its sha256"):
        imported(store, tmp_path / "out.tar")
    assert is_untouched(store)


def test_what_came_in_before_the_damage_is_whole(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries, tmp_path / "out")
    (source / "store" / entries[1].entry_id / entries[1].folder.name / "zarr.json").write_bytes(b"[]")
    with pytest.raises(CorruptEntryError):
        imported(store, source)
    first = find_targets(store)
    assert first is not None
    assert first.damaged() == {}
    assert find_targets(store, OTHER) is None


def test_a_file_that_changes_between_copy_and_commit_keeps_its_entry_out(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk: what was copied is right, and what is read back is not."""
    source = exported(entries[:1], tmp_path / "out")
    real = Draft.commit

    def commit(self: Draft, files: list[str], **more: Any) -> Entry:  # noqa: ANN401 (as Draft.commit takes them)
        local(self.folder / "zarr.json").write_bytes(b"[]")
        return real(self, files, **more)

    monkeypatch.setattr(Draft, "commit", commit)
    with pytest.raises(CorruptEntryError, match=r"zarr\.json does not match its sha256"):
        imported(store, source)
    assert find_targets(store) is None


@pytest.mark.parametrize("number", range(12))
def test_a_flipped_byte_anywhere_in_a_tar_never_gets_in(
    tmp_path: LocalPath, store: Store, entries: list[Entry], number: int
) -> None:
    source = exported(entries[:1], tmp_path / "out.tar")
    data = bytearray(source.read_bytes())
    # One in each of the first blocks of 512 bytes: headers, the list, the manifest and files.
    data[number * 512 + 7] ^= 0x41
    source.write_bytes(data)
    try:
        imported(store, source)
    except OdkdError:
        assert find_targets(store) is None
        assert is_untouched(store)
    else:
        found = find_targets(store)
        assert found is not None
        assert found.manifest.payload == entries[0].manifest.payload


def test_a_truncated_tar_never_gets_in(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries[:1], tmp_path / "out.tar")
    data = source.read_bytes()
    ends_at = data.rindex(b"{}") + 2
    for size in range(0, ends_at, 256):
        source.write_bytes(data[:size])
        with pytest.raises(CorruptEntryError):
            imported(store, source)
        assert is_untouched(store)


def test_a_tar_that_was_cut_between_two_entries_is_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries, tmp_path / "out.tar")
    data = source.read_bytes()
    end = data.index(f"store/{entries[1].entry_id}".encode())
    source.write_bytes(data[:end])
    with pytest.raises(CorruptEntryError, match="the end of the tar file is missing"):
        imported(store, source)
    assert is_untouched(store)


def test_a_folder_without_entries_is_no_export(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries[:1], tmp_path / "out")
    next(source.rglob("manifest.json")).unlink()
    with pytest.raises(CorruptEntryError, match="holds no entries") as caught:
        imported(store, source)
    assert suggested(caught.value) == "export it again"


def test_entries_come_from_a_home_in_use_too(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "from").rename(tmp_path / "home" / "store")
    draft = tmp_path / "home" / "store" / "targets" / "0123456789abcdef" / "20200101T000000000000-00000000"
    draft.mkdir(parents=True)
    (draft / "zarr.json").write_text("{}")
    assert imported(store, tmp_path / "home") == ["imported", "imported"]


def test_a_manifest_of_another_release_is_refused_as_in_the_store(
    tmp_path: LocalPath, store: Store, entries: list[Entry]
) -> None:
    source = exported(entries[1:], tmp_path / "out")
    manifest = source / "store" / entries[1].entry_id / "manifest.json"
    manifest.write_bytes(signed({**json.loads(manifest.read_bytes()), "schema": 4}))
    with pytest.raises(StoreError, match="schema version 4") as caught:
        imported(store, source)
    assert "use the release that wrote it" in suggested(caught.value)
    assert is_untouched(store), "not even the entry before it came in"


def test_what_is_not_there_or_no_tar_is_told(tmp_path: LocalPath, store: Store) -> None:
    with pytest.raises(StoreError, match="There is no"):
        imported(store, tmp_path / "nothing.tar")
    (tmp_path / "text.tar").write_text("no tar" * 1000)
    with pytest.raises(CorruptEntryError, match="cannot be read as a tar file"):
        imported(store, tmp_path / "text.tar")


def test_entries_come_from_a_home_in_a_bucket(tmp_path: LocalPath, store: Store, bucket: BucketPath) -> None:
    made = [make_entry(Store(bucket / "home" / "store")), make_entry(Store(bucket / "home" / "store"), OTHER)]
    export = open_export(bucket / "home")
    outcomes = [import_entry(store, export, each, advance=lambda: None) for each in export.manifests()]
    assert outcomes == ["imported", "imported"]
    found = find_targets(store)
    assert found is not None
    assert (found.manifest.files, found.damaged()) == (made[0].manifest.files, {})
