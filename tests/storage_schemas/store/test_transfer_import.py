"""Imports: what comes in is what went out; nothing half and nothing damaged does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.errors import CorruptEntryError, OdkdError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store import transfer
from storage_schemas.store.lease import Lease
from storage_schemas.store.parts import finish_part
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from storage_schemas.store.transfer import import_entry, open_export
from tests.support.archive_samples import OTHER, content_of, exported, imported, is_untouched, of_first, two_entries, write_tar
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, FILES, RECIPE, fill, make_entry, signed, unfinished

BOTH = pytest.mark.parametrize("name", ["out", "out.tar"])


@pytest.fixture
def entries(tmp_path: LocalPath) -> list[Entry]:
    return two_entries(tmp_path / "from")


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path / "to")


def _found(store: Store, recipe: Mapping[str, Any] = RECIPE) -> Entry | None:
    return store.find("targets", recipe)


# What comes in


@BOTH
def test_what_comes_in_is_what_went_out(tmp_path: LocalPath, store: Store, entries: list[Entry], name: str) -> None:
    seen: list[None] = []
    assert imported(store, exported(entries, tmp_path / name), lambda: seen.append(None)) == ["imported", "imported"]
    assert len(seen) == 6
    for before, recipe in zip(entries, (RECIPE, OTHER), strict=True):
        after = _found(store, recipe)
        assert after is not None
        assert after.problems() == []
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
    assert _found(store) == mine


def test_of_other_bits_under_the_same_key_those_in_the_store_stay_and_it_is_said(
    tmp_path: LocalPath, store: Store, entries: list[Entry]
) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        local(draft.folder / "zarr.json").write_bytes(b"{ }")
        mine = draft.commit(FILES, measured={})
    assert imported(store, exported(entries, tmp_path / "out")) == ["exists already, with other bits", "imported"]
    assert _found(store) == mine
    assert mine.path("zarr.json").read_bytes() == b"{ }"


def test_a_damaged_manifest_in_the_store_is_set_aside(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    manifest = make_entry(store).folder.parent / "manifest.json"
    local(manifest).write_bytes(b"{")
    assert imported(store, exported(entries[:1], tmp_path / "out")) == ["imported"]
    found = _found(store)
    assert found is not None
    assert found.problems() == []
    assert len(list(local(manifest.parent).glob("manifest.json.damaged-*"))) == 1


def test_bits_that_a_dead_writer_left_are_not_mixed_in(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        local(draft.folder / "bits/c/0").write_bytes(b"their shard")
        finish_part(draft.folder, "block-0", ["bits/c/0"])
    assert imported(store, exported(entries, tmp_path / "out")) == ["imported", "imported"]
    found = _found(store)
    assert found is not None
    assert found.manifest.payload == entries[0].manifest.payload
    assert found.problems() == []
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
        (b"first", "is incomplete: {entry_id}, bits/c/0 has 5 bytes where the manifest says 11"),
        (b"", "is incomplete: {entry_id}, bits/c/0 has 0 bytes where the manifest says 11"),
        (None, "is incomplete: {entry_id}, bits/c/0 is missing"),
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
    assert _found(store) is None
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
    first = _found(store)
    assert first is not None
    assert first.problems() == []
    assert _found(store, OTHER) is None


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
    with pytest.raises(CorruptEntryError, match=r"zarr\.json differs from the bytes that were written"):
        imported(store, source)
    assert _found(store) is None


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
        assert _found(store) is None
        assert is_untouched(store)
    else:
        found = _found(store)
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
    source = exported(entries, tmp_path / "out")
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


# Interrupted, and two at once


@BOTH
def test_an_interrupted_import_leaves_nothing_of_its_entry(
    tmp_path: LocalPath, store: Store, entries: list[Entry], name: str
) -> None:
    source = exported(entries, tmp_path / name)
    seen: list[None] = []

    def stop() -> None:
        seen.append(None)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(store, source, stop)
    assert _found(store) is not None
    assert _found(store, OTHER) is None
    assert list(local(store.root / entries[1].entry_id).iterdir()) == []
    assert imported(store, source) == ["exists already", "imported"]


IMPORT = """
import json, os, signal, sys, time
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Store
from storage_schemas.store.transfer import import_entry, open_export
left, pause = [int(sys.argv[3])], float(sys.argv[4])
def step():
    time.sleep(pause)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
with open_export(LocalPath(sys.argv[1])) as archive:
    store = Store(LocalPath(sys.argv[2]))
    done = [import_entry(store, archive, each, advance=step, notify=lambda _: None) for each in archive.manifests()]
print(json.dumps(done))
"""
# The code beside these tests, wherever another copy may be installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def _begin(source: Path, store: Store, *, killed_at: int = 0, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", IMPORT, str(source), str(store.root), str(killed_at), str(pause)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def test_a_killed_import_is_not_found_and_the_next_one_is_whole(
    tmp_path: LocalPath, store: Store, entries: list[Entry]
) -> None:
    source = exported(entries, tmp_path / "out.tar")
    for killed_at in (1, 3):
        with _begin(source, store, killed_at=killed_at) as process:
            process.communicate("\n", timeout=60)
        assert process.returncode == -9
        assert _found(store) is None
        assert (store.root / entries[0].entry_id).is_dir(), "it had begun"
    assert imported(store, source) == ["imported", "imported"]
    found = _found(store)
    assert found is not None
    assert found.problems() == []


def test_two_imports_at_once_bring_each_entry_in_once(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries, tmp_path / "out.tar")
    processes = [_begin(source, store, pause=0.02) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        outcomes = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            outcomes.append(json.loads(out))
    finally:
        for process in processes:
            process.kill()
    for first, second in zip(*outcomes, strict=True):
        assert sorted((first, second)) == ["exists already", "imported"]
    for recipe in (RECIPE, OTHER):
        found = _found(store, recipe)
        assert found is not None
        assert found.problems() == []
        assert {path.name for path in local(found.folder.parent).iterdir()} == {"manifest.json", found.folder.name}


def test_an_import_waits_for_a_writer_that_is_at_it_and_takes_that_ones_entry(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported(entries[:1], tmp_path / "out")
    home = store.root / "targets" / key_of("targets", RECIPE)
    home.make_folders()
    told: list[str] = []
    with Lease(home / "20200101T000000000000-00000000.lease") as lease:
        monkeypatch.setattr("storage_schemas.store.lease.LeaseWatch.is_own", lambda _: False)

        def finish(_: float) -> None:
            lease.path.unlink()
            make_entry(store)

        monkeypatch.setattr("time.sleep", finish)
        with open_export(source) as archive:
            outcome = import_entry(store, archive, archive.manifests()[0], advance=lambda: None, notify=told.append)
    assert outcome == "exists already"
    assert told[0].startswith(f"Waiting for {entries[0].entry_id}, which process {os.getpid()}")


def test_parts_of_a_dead_writer_are_told_nothing_of(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    unfinished(store, (0,))
    told: list[str] = []
    with open_export(exported(entries[:1], tmp_path / "out")) as archive:
        import_entry(store, archive, archive.manifests()[0], advance=lambda: None, notify=told.append)
    assert told == []


def test_a_draft_that_gives_way_is_there_already(
    tmp_path: LocalPath, store: Store, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer commits between the look into the store and our own commit."""
    source = exported(entries[:1], tmp_path / "out")
    real = transfer._fill

    def late(draft: Draft, *more: Any) -> None:  # noqa: ANN401 (as _fill takes them)
        real(draft, *more)
        for lease in local(draft.folder.parent).glob("*.lease"):
            lease.unlink()
        with monkeypatch.context() as patch:
            patch.setattr("storage_schemas.store.lease.LeaseWatch.is_dead", lambda _: True)
            make_entry(store)

    monkeypatch.setattr(transfer, "_fill", late)
    assert imported(store, source) == ["exists already"]
