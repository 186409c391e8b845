"""parse_path, and objects of a bucket on a real server of the S3 protocol."""

from __future__ import annotations

import pytest

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import parse_path


def test_parse_path_returns_a_bucket_or_a_local_path() -> None:
    assert parse_path("s3://b/a/c") == BucketPath("s3://b", "a") / "c"
    assert parse_path("gs://b//a/") == BucketPath("gs://b", "a")
    assert parse_path("s3://b") == BucketPath("s3://b", "")
    assert parse_path("/a/b") == LocalPath("/a/b")
    path = parse_path("s3://b/a/c")
    assert isinstance(path, BucketPath)
    assert (str(path), path.name, path.parent, path.with_name("d")) == (
        "s3://b/a/c",
        "c",
        parse_path("s3://b/a"),
        parse_path("s3://b/a/d"),
    )
    assert [str(each) for each in path.parents] == ["s3://b/a", "s3://b/"]


def test_a_bucket_path_writes_reads_lists_and_deletes_objects(bucket: BucketPath) -> None:
    name = "we ird+name%25é.json"
    (bucket / "a" / "b" / name).write_atomic(b"1")
    (bucket / "a" / "c").write_atomic(b"234")
    assert (bucket / "a" / "b" / name).read_bytes() == b"1"
    assert {name: facts.size for name, facts in (bucket / "a").files_below().items()} == {f"b/{name}": 1, "c": 3}
    assert (bucket / "a").children() == ([bucket / "a" / "b"], [bucket / "a" / "c"])
    # The beginning of a name is not a folder.
    assert not (bucket / "a" / "b" / "we").is_dir()
    assert (bucket / "a").is_dir()
    assert not (bucket / "a").exists()
    (bucket / "a").remove_tree()
    assert bucket.files_below() == {}
    with pytest.raises(FileNotFoundError):
        (bucket / "a" / "c").read_bytes()
    (bucket / "a" / "c").unlink()


def test_an_exclusive_write_creates_an_object_once(bucket: BucketPath) -> None:
    (bucket / "a").write_atomic(b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        (bucket / "a").write_atomic(b"second", exclusive=True)
    assert (bucket / "a").read_bytes() == b"first"


def test_an_impossible_object_name_raises_an_error_of_the_file(bucket: BucketPath) -> None:
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        (bucket / "images" / "./a.jpg").read_bytes()
