"""Reading image files: names, links and sizes that are refused, and storage that fails."""

from __future__ import annotations

import errno
import hashlib
import os

import numpy as np
import pytest
import simplejpeg

from stages.data.images import (
    ImageError,
    check_image,
    file_name_fault,
    probe_header,
    read_image_file,
)
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from tests.support.shared_data import shared_data


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x.jpg", "a/../../x.jpg", "a/..", "a\0b.jpg", "a\nb.jpg", "x" * 4096, "\ud800.jpg", None, 7, ["a"]],
)
def test_names_outside_of_the_folder_are_refused_before_opening(tmp_path: LocalPath, name: object) -> None:
    assert file_name_fault(name)
    if isinstance(name, str):
        with pytest.raises(ImageError, match=r"^file_name:"):
            read_image_file(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["000000000139.jpg", "val2017/a b.jpg", "..jpg", "a..b/c...png", "\u0424\u043e\u0442\u043e.jpg"]
)
def test_ordinary_names_have_no_fault(name: str) -> None:
    assert file_name_fault(name) is None


def test_missing_files_folders_and_pipes_are_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("absent.jpg", "No such file"), ("folder.jpg", "not a regular"), ("pipe.jpg", "not a regular")):
        with pytest.raises(ImageError, match=reason):
            read_image_file(tmp_path, name)
    with pytest.raises(ImageError, match=r"^file:"):
        read_image_file(tmp_path, "y" * 300)


def test_a_symbolic_link_is_followed_within_the_folder_only(tmp_path: LocalPath) -> None:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "images-private").mkdir()
    (tmp_path / "images-private" / "secret.jpg").write_bytes(b"secret")
    (root / "sub" / "a.jpg").write_bytes(b"inside")
    (root / "near.jpg").symlink_to(root / "sub" / "a.jpg")
    (root / "far.jpg").symlink_to(tmp_path / "images-private" / "secret.jpg")
    (root / "away").symlink_to(tmp_path / "images-private")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert read_image_file(root, "near.jpg") == b"inside"
    for name in ("far.jpg", "away/secret.jpg"):
        with pytest.raises(ImageError, match="symbolic link leads out"):
            read_image_file(root, name)
    with pytest.raises(ImageError, match=r"^file:"):
        read_image_file(root, "loop.jpg")


def test_an_image_folder_that_is_itself_a_link_is_read(tmp_path: LocalPath) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_image_file(tmp_path / "link", "a.jpg") == b"x"


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: LocalPath) -> None:
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(600 << 20)
    with pytest.raises(ImageError, match="629145600 bytes"):
        read_image_file(tmp_path, "huge.jpg")


def test_checking_returns_the_hash_and_length_of_the_file(tmp_path: LocalPath) -> None:
    data = bytes(simplejpeg.encode_jpeg(np.zeros((64, 96, 3), np.uint8)))
    (tmp_path / "a.jpg").write_bytes(data)
    facts = check_image(tmp_path, "a.jpg", (96, 64))
    assert (facts.sha256, facts.size) == (hashlib.sha256(data).hexdigest(), len(data))
    (tmp_path / "a.jpg").write_bytes(data[:-40])
    with pytest.raises(ImageError):
        check_image(tmp_path, "a.jpg", (96, 64))


def test_real_photographs_pass() -> None:
    root = shared_data("coco_val2017_person_480") / "images"
    for path in sorted(root.iterdir())[:50]:
        header = probe_header(path.read_bytes())
        assert check_image(root, path.name, (header.width, header.height)).size == path.stat().st_size


@pytest.mark.parametrize(
    ("root", "number", "is_of_the_file"),
    [
        (LocalPath("/data"), errno.ENOENT, True),
        (LocalPath("/data"), errno.EIO, True),
        (LocalPath("/data"), errno.ENOSPC, False),
        (BucketPath("s3://bucket", "images"), errno.ENOENT, True),
        (BucketPath("s3://bucket", "images"), errno.EINVAL, True),
        (BucketPath("s3://bucket", "images"), errno.EIO, False),
        (BucketPath("s3://bucket", "images"), errno.ENOSPC, False),
    ],
)
def test_failing_storage_is_not_a_broken_image(
    root: StorePath, number: int, is_of_the_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise intact images would be quarantined and missing from the table."""

    def fetched(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "a.jpg")

    monkeypatch.setattr(type(root), "fetch", fetched)
    with pytest.raises(ImageError if is_of_the_file else OSError, match=os.strerror(number)):
        read_image_file(root, "a.jpg")
