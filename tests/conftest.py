"""Fixtures for all tests: one thread a process, an S3 server, a warm Ray, and homes with entries and commands on them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import hypothesis
import pytest
import torch

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry
from tests.support.buckets import Server, local, served
from tests.support.cache_samples import Cache, a_home
from tests.support.warm_ray import warm_ray
from tests.support.whole_runs import done

# Tests may run on two cores, where the threads of several processes would starve each other.
torch.set_num_threads(1)
cv2.setNumThreads(0)

# The time of an example says nothing on a busy machine: timing belongs in the benchmark.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Group the tests that use the warm Ray: one process of pytest-xdist runs them all, so that Ray starts once."""
    if "warm" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group("warm"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests that use the warm Ray to the end: they share one, and the others run without it."""
    items.sort(key=lambda item: "warm" in getattr(item, "fixturenames", ()))


@pytest.fixture
def tmp_path(tmp_path: LocalPath) -> LocalPath:
    """pytest's folder, as the class of paths that a home on a file system has."""
    return LocalPath(tmp_path)


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture
def server(_server: Server, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server for this process and its children; local copies of its files lie in the test's folder."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ODKD_CACHE", str(tmp_path / "node"))
    yield _server
    _server.fail_every(0)
    _server.overwrite(False)


@pytest.fixture
def bucket(server: Server) -> BucketPath:
    """An empty bucket."""
    name = f"odkd-{uuid.uuid4().hex[:8]}"
    server.make_bucket(name)
    return BucketPath(f"s3://{name}", "")


@pytest.fixture(scope="session")
def nodes_folder(tmp_path_factory: pytest.TempPathFactory) -> LocalPath:
    """Where each node keeps its local copies of files in buckets, in a folder of its name."""
    return LocalPath(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(scope="session")
def warm(_server: Server, nodes_folder: LocalPath) -> Iterator[None]:
    """A Ray for all tests that need one; its workers are on the node ``first`` and reach the S3 server."""
    with warm_ray({**_server.environment, "ODKD_CACHE": str(nodes_folder / "first")}):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, warm: None) -> LocalPath:
    """A home in which all stages have run."""
    home = LocalPath(tmp_path_factory.mktemp("finished")) / "home"
    ran = done(home, "all")
    assert ran.used_cluster
    return home


@pytest.fixture
def cache(tmp_path: LocalPath, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Run commands of ``pipeline.cache`` on the home ``tmp_path``."""
    monkeypatch.delenv("ODKD_HOME", raising=False)
    monkeypatch.delenv("ODKD_UPSTREAM", raising=False)
    return Cache(tmp_path, capsys)


@pytest.fixture(scope="session")
def _home_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Entry]]:
    home = LocalPath(tmp_path_factory.mktemp("home"))
    return home, a_home(home)


@pytest.fixture
def made(tmp_path: LocalPath, _home_once: tuple[Path, dict[str, Entry]]) -> dict[str, Entry]:
    """The entries of a copy of that home, by name."""
    home, entries = _home_once
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    return {name: replace(entry, folder=tmp_path / local(entry.folder).relative_to(home)) for name, entry in entries.items()}
