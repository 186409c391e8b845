"""The two classes of paths that odkd reads and writes, and ``parse_path``, which chooses between them once."""

from __future__ import annotations

import os

from storage_schemas.paths.bucket import SCHEMES, BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.node_cache import RemoteFile, RemoteFolder

__all__ = ["File", "Folder", "StorePath", "parse_path"]

StorePath = LocalPath | BucketPath
"""A path below a home: in a folder that all nodes see, or in a bucket; both classes have the methods of ``LocalPath``."""
File = LocalPath | RemoteFile
"""A file of the store as it is handed to another process, which reads it at ``fetch()``."""
Folder = LocalPath | RemoteFolder
"""A folder of the store as it is handed to another process, which reads it at ``fetch()``."""


def parse_path(text: str) -> StorePath:
    """The path that a text names: ``s3://bucket/prefix`` and ``gs://bucket/prefix``, or else one of the file system."""
    scheme, is_url, rest = text.partition("://")
    if not is_url or scheme not in SCHEMES:
        return LocalPath(os.path.expanduser(text))  # noqa: PTH111 (leaves a path of an unknown user as it is)
    bucket, _, key = rest.partition("/")
    return BucketPath(f"{scheme}://{bucket}", "/".join(part for part in key.split("/") if part))
