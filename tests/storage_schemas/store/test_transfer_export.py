"""Exports: what they hold, that damage and interruption leave none, and that nothing is written over."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.transfer import export_entries
from tests.support.archive_samples import content_of
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, RECIPE, make_entry

BOTH = pytest.mark.parametrize("name", ["out", "out.tar"])


@pytest.fixture
def entries(tmp_path: LocalPath) -> list[Entry]:
    store = Store(tmp_path / "store")
    return [make_entry(store), make_entry(store, {**RECIPE, "threshold": 0.4})]


def _export(entries: list[Entry], target: Path) -> None:
    export_entries(entries, target, advance=lambda: None)


def _expected(entries: list[Entry]) -> dict[str, bytes]:
    found = {}
    for entry in entries:
        found[f"store/targets/{entry.key}/manifest.json"] = (entry.folder.parent / "manifest.json").read_bytes()
        found |= {f"store/targets/{entry.key}/{entry.folder.name}/{name}": data for name, data in CONTENT.items()}
    return found


def _tar_content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: stream.read() for member in tar if (stream := tar.extractfile(member))}


@pytest.mark.parametrize(("name", "read"), [("out", content_of), ("out.tar", _tar_content)])
def test_an_export_holds_the_entries_as_the_store_has_them(
    tmp_path: LocalPath, entries: list[Entry], name: str, read: Callable[[Path], dict[str, bytes]]
) -> None:
    seen: list[None] = []
    export_entries(entries, tmp_path / name, advance=lambda: seen.append(None))
    assert read(tmp_path / name) == _expected(entries)
    assert len(seen) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "store"]


def test_an_exported_folder_is_a_home(tmp_path: LocalPath, entries: list[Entry]) -> None:
    _export(entries, tmp_path / "out")
    found = Store(tmp_path / "out" / "store").find("targets", RECIPE)
    assert found is not None
    assert found.manifest == entries[0].manifest
    assert found.damaged() == {}


def test_files_that_no_manifest_names_and_other_attempts_are_not_exported(tmp_path: LocalPath, entries: list[Entry]) -> None:
    home = entries[0].folder.parent
    local(entries[0].folder / "notes.txt").write_text("mine")
    local(home / "manifest.json.damaged-12345678").write_text("{")
    (home / "20200101T000000000000-00000000").make_folder()
    local(home / "20200101T000000000000-00000000" / "half").write_text("")
    expected = set(_expected(entries))
    _export(entries, tmp_path / "out")
    assert set(content_of(tmp_path / "out")) == expected


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@BOTH
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "bits/c/1 does not match its sha256"),
        (lambda path: path.write_bytes(b"other"), "bits/c/1 has 5 bytes where the manifest says 11"),
        (lambda path: path.write_bytes(b"other shard, longer"), "bits/c/1 has 19 bytes where the manifest says 11"),
        (lambda path: path.unlink(), "bits/c/1 is missing"),
    ],
)
def test_damage_is_named_and_leaves_no_export(
    tmp_path: LocalPath, entries: list[Entry], name: str, damage: Callable[[Path], object], said: str
) -> None:
    damage(entries[1].path("bits/c/1"))
    with pytest.raises(CorruptEntryError, match=f"Entry {entries[1].entry_id}: {said}; nothing is exported") as caught:
        _export(entries, tmp_path / name)
    assert suggested(caught.value).startswith(f"python -m pipeline.cache verify {entries[1].entry_id} --home ")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@BOTH
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_there_already_is_never_written_over(tmp_path: LocalPath, entries: list[Entry], name: str, what: str) -> None:
    target = tmp_path / name
    if what == "file":
        target.touch()
    elif what == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(StoreError, match="exists already"):
        _export(entries, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "store"]


@BOTH
def test_a_folder_that_is_not_there_is_not_made(tmp_path: LocalPath, entries: list[Entry], name: str) -> None:
    with pytest.raises(StoreError, match="There is no folder"):
        _export(entries, tmp_path / "no" / name)


@BOTH
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_nothing(
    tmp_path: LocalPath, entries: list[Entry], name: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    seen: list[None] = []

    def stop() -> None:
        seen.append(None)
        if len(seen) == 5:
            raise error

    with pytest.raises(type(error)):
        export_entries(entries, tmp_path / name, advance=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


KILLED = """
import os, signal, sys
from pathlib import Path
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.transfer import export_entries
from storage_schemas.store.inventory import take_inventory
from storage_schemas.store.store import Store
left = [int(sys.argv[3])]
def die():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
export_entries(list(take_inventory(Store(LocalPath(sys.argv[1]))).entries.values()), LocalPath(sys.argv[2]), advance=die)
"""


@BOTH
def test_a_killed_export_has_not_got_its_name(tmp_path: LocalPath, entries: list[Entry], name: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(tmp_path / name)]
    assert subprocess.run([*command, "6"], check=False, timeout=60).returncode == -9
    (left,) = [path for path in tmp_path.iterdir() if path.name != "store"]
    assert left.name.startswith(f".{name}.")
    assert left.name.endswith(".partial")
    assert subprocess.run([*command, "100"], check=False, timeout=60).returncode == 0
    assert (tmp_path / name).exists()


def test_a_tar_is_on_disk_before_it_has_its_name(
    tmp_path: LocalPath, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(number: int) -> None:
        happened.append("sync")
        real_sync(number)

    def rename(path: Path, target: Path) -> Path:
        happened.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    _export(entries, tmp_path / "out.tar")
    # The file and its folder, then the name, and the folder again.
    assert happened == ["sync", "sync", "rename", "sync"]
    happened.clear()
    _export(entries, tmp_path / "out")
    # Each file at least: two manifests and six files.
    assert happened.count("sync") > 8
    assert happened[-2:] == ["rename", "sync"]
