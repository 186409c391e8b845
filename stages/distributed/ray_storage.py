"""Storage for Ray Train's own state files: a folder, or a bucket through the project's own client.

pyarrow's S3 file system is not used, because it creates an empty object for every folder, which looks like a used folder.
"""

from __future__ import annotations

import io
from typing import Any

from pyarrow import PythonFile, fs

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.path import StorePath

__all__ = ["ray_storage"]


def ray_storage(path: StorePath) -> dict[str, Any]:
    """The arguments of ``RunConfig`` that make Ray Train store its state in ``path``."""
    return path.in_file_system(lambda bucket: fs.PyFileSystem(_Bucket(bucket)))


class _Upload(io.BytesIO):
    """A buffer that becomes the object when it is closed."""

    def __init__(self, path: BucketPath) -> None:
        super().__init__()
        self._target = path

    def close(self) -> None:
        if not self.closed:
            self._target.write_atomic(self.getvalue())
        super().close()


class _Bucket(fs.FileSystemHandler):  # type: ignore[misc] # pyarrow has no types
    """The operations of a file system that Ray Train uses; paths are keys of the bucket."""

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
        """Do nothing: a bucket has no folders."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        folders, files = self._path(selector.base_dir).children()
        found = [fs.FileInfo(path.key, fs.FileType.Directory) for path in folders]
        return [*found, *(self._info(path.key) for path in files)]

    def open_input_stream(self, path: str) -> PythonFile:
        return PythonFile(io.BytesIO(self._path(path).read_bytes()), mode="r")

    def open_input_file(self, path: str) -> PythonFile:
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> PythonFile:
        return PythonFile(_Upload(self._path(path)), mode="w")

    def delete_file(self, path: str) -> None:
        self._path(path).unlink()

    def copy_file(self, source: str, target: str) -> None:
        self._path(source).link_as(self._path(target))

    def move(self, source: str, target: str) -> None:
        self._path(source).move_to(self._path(target))

    def open_append_stream(self, path: str, metadata: object) -> PythonFile:
        raise NotImplementedError("objects cannot be appended to")

    def delete_dir(self, path: str) -> None:
        raise NotImplementedError("the draft that holds the folder is deleted as a whole")

    delete_dir_contents = delete_root_dir_contents = delete_dir

    def _path(self, path: str) -> BucketPath:
        return BucketPath(self._bucket, path.strip("/"))

    def _info(self, path: str) -> fs.FileInfo:
        target = self._path(path)
        facts = target.state()
        if facts:
            return fs.FileInfo(path, fs.FileType.File, size=facts.size, mtime=facts.changed)
        return fs.FileInfo(path, fs.FileType.Directory if target.is_dir() else fs.FileType.NotFound)
