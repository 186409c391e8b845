"""A real S3 server for tests of stores in buckets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath

__all__ = ["Server", "local", "served"]


class Server:
    """A running server, started by ``served``."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        self._ask("PUT", f"/{name}")

    def fail_every(self, number: int) -> None:
        """Make every ``number``-th request fail from now on; 0: none."""
        self._ask("PUT", f"/_faults/{number}")

    def overwrite(self, does: bool) -> None:
        """Ignore the precondition If-None-Match from now on, or respect it again."""
        self._ask("PUT", f"/_overwrites/{int(does)}")

    def failed(self) -> int:
        """Return how many requests have failed since ``fail_every``."""
        return int(json.loads(self._ask("GET", "/_faults")))

    def _ask(self, method: str, path: str) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method)) as answer:
            data: bytes = answer.read()
        return data


@contextmanager
def served() -> Iterator[Server]:
    """Start a server in a process of its own, and end it with the block."""
    command = [sys.executable, str(Path(__file__).with_name("object_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()))
        finally:
            process.kill()


def local(path: StorePath) -> LocalPath:
    """Return a path of the file system with its type."""
    assert isinstance(path, LocalPath)
    return path
