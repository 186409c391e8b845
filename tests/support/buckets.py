"""A bucket on a real server of the S3 protocol, for tests of stores."""

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
    """The server that ``served`` started."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """A new, empty bucket."""
        self._ask("PUT", f"/{name}")

    def fail_every(self, number: int) -> None:
        """From here on every so many requests one fails; 0: none."""
        self._ask("PUT", f"/_faults/{number}")

    def overwrite(self, does: bool) -> None:
        """From here on conditions are taken and not heeded; or are heeded again."""
        self._ask("PUT", f"/_overwrites/{int(does)}")

    def failed(self) -> int:
        """How many requests have failed since."""
        return int(json.loads(self._ask("GET", "/_faults")))

    def _ask(self, method: str, path: str) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method)) as answer:
            data: bytes = answer.read()
        return data


@contextmanager
def served() -> Iterator[Server]:
    """A server in a process of its own, which ends with the block."""
    command = [sys.executable, str(Path(__file__).with_name("object_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()))
        finally:
            process.kill()


def local(path: StorePath) -> LocalPath:
    """A place that is on a file system, as the path that it is."""
    assert isinstance(path, LocalPath)
    return path
