"""Entries: checking their files and putting lost ones back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Store
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, flip_bit, make_entry, truncate


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def _swap(path: Path) -> None:
    other = path.with_name("1")
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_put_back_accepts_only_the_original_bytes(store: Store, tmp_path: LocalPath) -> None:
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
    assert made.damaged() == {}
    assert not other.exists()


@pytest.mark.parametrize("where", ["bits/c/0", "bits/c", "bits"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_put_back_deletes_a_file_or_folder_in_the_way(store: Store, tmp_path: LocalPath, where: str, what: str) -> None:
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
    assert made.damaged() == {}


def test_put_back_refuses_a_discarded_entry(store: Store, tmp_path: LocalPath) -> None:
    made, other = make_entry(store), tmp_path / "made again"
    other.write_bytes(CONTENT["bits/c/0"])
    store.discard(made)
    with pytest.raises(FileNotFoundError):
        made.put_back("bits/c/0", other)
    assert not made.folder.exists()


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "", ".", "bits", "bits/c/2", "zarr.json/"])
def test_path_refuses_a_name_that_the_manifest_lacks(store: Store, name: str) -> None:
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
def test_check_names_a_damaged_file(store: Store, damage: Callable[[Path], None], said: str) -> None:
    made = make_entry(store)
    made.check()
    damage(made.path("bits/c/0"))
    with pytest.raises(CorruptEntryError, match=f"targets/{made.key}: {said}") as caught:
        made.check()
    assert suggested(caught.value) == f"python -m pipeline.cache repair {made.entry_id} --home {store.root.parent}"


def test_problems_name_an_unreadable_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)

    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalPath, "blocks", broken)
    assert str(made.damaged()["bits/c/0"]) == "cannot be read (Input/output error)"
