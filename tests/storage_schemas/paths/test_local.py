"""Writing and syncing files of a file system."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from storage_schemas.paths.facts import facts_of
from storage_schemas.paths.local import LocalPath


def test_write_atomic_replaces_the_file_and_leaves_no_other(tmp_path: LocalPath) -> None:
    (tmp_path / "a").write_atomic(b"one")
    (tmp_path / "a").write_atomic(b"two", durable=False)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_first_of_two_exclusive_writers_wins(tmp_path: LocalPath) -> None:
    (tmp_path / "a").write_atomic(b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        (tmp_path / "a").write_atomic(b"two", exclusive=True)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_keeps_the_old_file(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_atomic(b"one")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        (tmp_path / "a").write_atomic(b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_syncs_by_default(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    (tmp_path / "a").write_atomic(b"one", durable=False)
    assert synced == []
    (tmp_path / "a").write_atomic(b"one")
    assert len(synced) == 2  # the file and its folder


def test_sync_files_syncs_every_folder_on_the_way(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["top", "bits/c/0"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    tmp_path.sync_files(names)
    assert set(synced) == {tmp_path, *(tmp_path / name for name in ("top", "bits", "bits/c", "bits/c/0"))}


def test_sha256_reads_a_long_file_block_by_block(tmp_path: LocalPath) -> None:
    data = bytes(range(256)) * 9000  # more than two blocks of reading
    (tmp_path / "a").write_bytes(data)
    assert facts_of(tmp_path / "a") == (len(data), hashlib.sha256(data).hexdigest())


def test_a_listing_follows_links_and_leaves_out_what_cannot_be_reached(tmp_path: LocalPath) -> None:
    root = tmp_path / "images"
    (root / "folder").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"123")
    (root / "folder" / "b.jpg").write_bytes(b"12345")
    (root / "link.jpg").symlink_to(root / "folder" / "b.jpg")
    (root / "to_folder").symlink_to(root / "folder")
    whole = root.listing()
    assert whole == [("a.jpg", 3), ("link.jpg", 5), ("folder/b.jpg", 5)]
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "ring").symlink_to(root / "ring2")
    (root / "ring2").symlink_to(root / "ring")
    (root / "through_a_file").symlink_to(root / "a.jpg" / "c.jpg")
    assert root.listing() == whole
    assert (tmp_path / "gone").listing() == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_failing_disk_ends_a_listing_and_does_not_shorten_it(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"123")
    stat = LocalPath.stat

    def failing(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "b.jpg":
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", failing)
    for ask in (tmp_path.listing, tmp_path.files_below, tmp_path.usage):
        with pytest.raises(OSError, match=r"b\.jpg") as caught:
            ask()
        assert caught.value.errno == number
