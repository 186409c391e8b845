"""Where Ray Train keeps its own notes: a folder, or a bucket by the same client as everything else.

pyarrow's file system for S3 leaves an empty object for every folder, which looks like a folder that somebody needs.
"""

from __future__ import annotations

import io
from typing import Any

from pyarrow import PythonFile, fs

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.path import StorePath

__all__ = ["ray_storage"]


def ray_storage(place: StorePath) -> dict[str, Any]:
    """The arguments of ``RunConfig`` that make Ray Train use ``place``."""
    return place.in_file_system(lambda bucket: fs.PyFileSystem(_Bucket(bucket)))


class _Upload(io.BytesIO):
    """What is written here is the object when it is closed."""

    def __init__(self, place: BucketPath) -> None:
        super().__init__()
        self._place = place

    def close(self) -> None:
        if not self.closed:
            self._place.put(self.getvalue())
        super().close()


class _Bucket(fs.FileSystemHandler):  # type: ignore[misc] # pyarrow has no types
    """The part of a file system that Ray Train asks for, with paths as keys."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bucket) and other._bucket == self._bucket

    def __hash__(self) -> int:
        return hash(self._bucket)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def get_type_name(self) -> str:
        return "odkd"

    def normalize_path(self, path: str) -> str:
        return path

    def create_dir(self, path: str, recursive: bool) -> None:
        """A bucket has no folders."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        folders, files = self._place(selector.base_dir).children()
        found = [fs.FileInfo(place.key, fs.FileType.Directory) for place in folders]
        return [*found, *(self._info(place.key) for place in files)]

    def open_input_stream(self, path: str) -> PythonFile:
        return PythonFile(io.BytesIO(self._place(path).read_bytes()), mode="r")

    def open_input_file(self, path: str) -> PythonFile:
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> PythonFile:
        return PythonFile(_Upload(self._place(path)), mode="w")

    def delete_file(self, path: str) -> None:
        self._place(path).unlink()

    def copy_file(self, source: str, target: str) -> None:
        self._place(source).copy_to(self._place(target))

    def move(self, source: str, target: str) -> None:
        self._place(source).move_to(self._place(target))

    def open_append_stream(self, path: str, metadata: object) -> PythonFile:
        raise NotImplementedError("an object is written whole")

    def delete_dir(self, path: str) -> None:
        raise NotImplementedError("the draft that holds the folder is removed as a whole")

    delete_dir_contents = delete_root_dir_contents = delete_dir

    def _place(self, path: str) -> BucketPath:
        return BucketPath(self._bucket, path.strip("/"))

    def _info(self, path: str) -> fs.FileInfo:
        place = self._place(path)
        facts = place.state()
        if facts:
            return fs.FileInfo(path, fs.FileType.File, size=facts.size, mtime=facts.changed)
        return fs.FileInfo(path, fs.FileType.Directory if place.is_dir() else fs.FileType.NotFound)
