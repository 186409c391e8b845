"""Imports from whoever may have made them: nothing hostile comes in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft, Entry, Store
from storage_schemas.store.transfer import open_export
from tests.support.archive_samples import OTHER, content_of, exported, imported, is_untouched, of_first, two_entries, write_tar
from tests.support.store_samples import entries_of, signed


@pytest.fixture
def entries(tmp_path: LocalPath) -> list[Entry]:
    return two_entries(tmp_path / "from")


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path / "to")


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_member("/etc/cron.d/x", tarfile.REGTYPE), "'/etc/cron.d/x', which is no plain file"),
        (_member("../outside", tarfile.REGTYPE), "'../outside', which is no plain file"),
        (_member("targets/../../outside", tarfile.REGTYPE), "which is no plain file"),
        (_member("./store", tarfile.REGTYPE), "which is no plain file"),
        (_member("link", tarfile.SYMTYPE, "/etc/passwd"), "'link', which is no plain file"),
        (_member("link", tarfile.LNKTYPE, "store"), "'link', which is no plain file"),
        (_member("device", tarfile.CHRTYPE), "'device', which is no plain file"),
        (_member("block", tarfile.BLKTYPE), "'block', which is no plain file"),
        (_member("pipe", tarfile.FIFOTYPE), "'pipe', which is no plain file"),
        (_member("folder", tarfile.DIRTYPE), "'folder', which is no plain file"),
        (_member("sparse", tarfile.GNUTYPE_SPARSE), "which is no plain file"),
        (_member("twice", tarfile.REGTYPE), "'twice' twice"),
    ],
)
def test_members_that_an_export_never_has_are_refused(
    tmp_path: LocalPath, store: Store, entries: list[Entry], member: tarfile.TarInfo, said: str
) -> None:
    write_tar(tmp_path / "out.tar", {**content_of(exported(entries, tmp_path / "out")), "twice": b""}, member)
    with pytest.raises(CorruptEntryError, match=said):
        imported(store, tmp_path / "out.tar")
    assert is_untouched(store)
    assert not (tmp_path / "outside").exists()


def test_a_member_of_negative_size_is_refused_and_not_read_for_ever(tmp_path: LocalPath, store: Store) -> None:
    first = tarfile.TarInfo("first").tobuf()
    header = bytearray(tarfile.TarInfo("back").tobuf())
    # GNU's spelling of numbers that do not fit: a first byte of 255 and the two's complement of -512.
    header[124:136] = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "out.tar").write_bytes(first + bytes(header) + bytes(1024))
    with pytest.raises(CorruptEntryError, match="'back' twice"):
        imported(store, tmp_path / "out.tar")


def _hostile(tmp_path: LocalPath, entry: Entry, change: Callable[[dict[str, bytes], str], None]) -> Path:
    """A tar file of the export of an entry after ``change`` of its files; that is given the manifest's name."""
    files = content_of(exported([entry], tmp_path / "plain"))
    change(files, f"store/{entry.entry_id}/manifest.json")
    write_tar(tmp_path / "out.tar", files)
    return tmp_path / "out.tar"


FACTS = {"size": 1, "sha256": "00"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folder": "../../other"}, "names files outside its folder"),
        ({"files": {"../../../../outside": FACTS}}, "names files outside its folder"),
        ({"files": {"/tmp/outside": FACTS}}, "names files outside its folder"),
        ({"files": {"a/./b": FACTS}}, "names files outside its folder"),
        ({"files": {"a": FACTS, "a/b": FACTS}}, "a is missing"),
        ({"kind": "views"}, "does not follow from its recipe"),
        ({"recipe": OTHER}, "does not follow from its recipe"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    tmp_path: LocalPath, store: Store, entries: list[Entry], changes: dict[str, Any], said: str
) -> None:
    def change(files: dict[str, bytes], manifest: str) -> None:
        files[manifest] = signed({**json.loads(files[manifest]), **changes})

    with pytest.raises(CorruptEntryError, match=said):
        imported(store, _hostile(tmp_path, entries[0], change))
    assert is_untouched(store)


def test_one_name_for_a_file_and_a_folder_is_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    def change(files: dict[str, bytes], manifest: str) -> None:
        facts = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        files[manifest] = signed({**json.loads(files[manifest]), "files": {"a": facts, "a/b": facts}})
        files |= {of_first(entries, name): b"x" for name in ("a", "a/b")}

    with pytest.raises(StoreError, match="cannot be imported: File exists"):
        imported(store, _hostile(tmp_path, entries[0], change))
    assert is_untouched(store)


def test_a_file_with_the_name_of_a_marker_is_only_a_file(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    part = {"name": "block-0", "files": {"zarr.json": {"size": 2, "sha256": "0" * 64}}, "notes": {}}
    data = json.dumps(part).encode()

    def change(files: dict[str, bytes], manifest: str) -> None:
        body = json.loads(files[manifest])
        facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files[manifest] = signed({**body, "files": {**body["files"], "block-0.part.json": facts}})
        files[of_first(entries, "block-0.part.json")] = data

    assert imported(store, _hostile(tmp_path, entries[0], change)) == ["imported"]
    (found,) = entries_of(store)
    assert found.damaged() == {}
    assert found.manifest.files["zarr.json"] == entries[0].manifest.files["zarr.json"]


def test_a_name_that_no_terminal_can_show_is_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    def change(files: dict[str, bytes], manifest: str) -> None:
        facts = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        files[manifest] = signed({**json.loads(files[manifest]), "files": {"\ud800": facts}})

    with pytest.raises(CorruptEntryError, match="names files outside its folder"):
        imported(store, _hostile(tmp_path, entries[0], change))


def test_an_edited_manifest_is_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    def change(files: dict[str, bytes], manifest: str) -> None:
        files[manifest] = files[manifest].replace(b'"AP": 0.5', b'"AP": 0.9')

    with pytest.raises(CorruptEntryError, match="does not match its own sha256"):
        imported(store, _hostile(tmp_path, entries[0], change))


@pytest.mark.parametrize(
    ("kind", "said"), [("targets", "has at targets/.* the manifest of targets/"), ("others", "the unknown kind 'others'")]
)
def test_a_manifest_at_another_place_or_of_an_unknown_kind_is_refused(
    tmp_path: LocalPath, store: Store, entries: list[Entry], kind: str, said: str
) -> None:
    with Store(tmp_path / "from").draft(kind, {"of": "its own"}) as draft:
        assert isinstance(draft, Draft)
        other = draft.commit([], measured={})

    def change(files: dict[str, bytes], manifest: str) -> None:
        text = (other.folder.parent / "manifest.json").read_bytes()
        if kind == "targets":
            files[manifest] = text
        else:
            files[f"store/{other.entry_id}/manifest.json"] = text

    with pytest.raises(CorruptEntryError, match=said):
        imported(store, _hostile(tmp_path, entries[0], change))
    assert is_untouched(store)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_in_a_folder_are_not_followed(tmp_path: LocalPath, store: Store, entries: list[Entry], what: str) -> None:
    source = exported(entries[:1], tmp_path / "out")
    path = source / of_first(entries, "bits/c/0" if what == "file" else "bits")
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(CorruptEntryError, match=r"bits/c/., a link or a file behind one"):
        imported(store, source)
    assert is_untouched(store)


@pytest.mark.parametrize("headers", [{"GNU.sparse.map": "a,b"}, {"GNU.sparse.size": "x", "GNU.sparse.map": "0,1"}])
def test_headers_with_numbers_that_are_none_are_refused(tmp_path: LocalPath, store: Store, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "out.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("back")
        member.pax_headers = headers
        tar.addfile(member)
    with pytest.raises(CorruptEntryError, match="cannot be read as a tar file"):
        imported(store, tmp_path / "out.tar")
    assert is_untouched(store)


def test_a_pipe_is_not_waited_for(tmp_path: LocalPath, store: Store) -> None:
    os.mkfifo(tmp_path / "out.tar")
    with pytest.raises(StoreError, match="There is no file"):
        imported(store, tmp_path / "out.tar")


def test_an_entry_of_another_schema_version_is_skipped_with_a_warning(
    tmp_path: LocalPath, store: Store, entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    source = exported(entries, tmp_path / "out")
    path = source / "store" / entries[0].entry_id / "manifest.json"
    path.write_bytes(signed({**json.loads(path.read_bytes()), "schema": 2}))
    assert imported(store, source) == ["imported"]
    assert f"{path.relative_to(source)} has schema version 2" in caplog.text


def test_an_entry_without_a_manifest_is_named(
    tmp_path: LocalPath, store: Store, entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    source = exported(entries, tmp_path / "out")
    (source / "store" / entries[0].entry_id / "manifest.json").unlink()
    assert imported(store, source) == ["imported"]
    assert f"{source} has no manifest of {entries[0].entry_id}" in caplog.text


def test_a_link_to_a_folder_is_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    source = exported(entries, tmp_path / "out")
    kind = source / "store" / "targets"
    kind.rename(tmp_path / "elsewhere")
    kind.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptEntryError, match="a link or a file behind one"):
        imported(store, source)


def test_a_tar_file_shorter_than_its_end_is_refused(tmp_path: LocalPath, store: Store) -> None:
    source = tmp_path / "short.tar"
    source.write_bytes(bytes(512))
    with pytest.raises(CorruptEntryError):
        imported(store, source)


def test_a_manifest_of_many_gigabytes_is_cut_and_refused(tmp_path: LocalPath, store: Store, entries: list[Entry]) -> None:
    name = f"store/{entries[0].entry_id}/manifest.json"
    header = tarfile.TarInfo(name)
    header.size = 40 << 30
    with (tmp_path / "out.tar").open("wb") as file:
        file.write(header.tobuf())
        # A hole: on the disk it takes no space.
        file.truncate(file.tell() + header.size + 2 * tarfile.BLOCKSIZE)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptEntryError):
            open_export(tmp_path / "out.tar").manifests()
        assert tracemalloc.get_traced_memory()[1] < 500 << 20
    finally:
        tracemalloc.stop()
