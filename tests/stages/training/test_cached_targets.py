"""The maps of an epoch's bits: decoded one epoch ahead, kept while needed, then closed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stages.training import cached_targets, memory_map
from stages.training.cached_targets import CachedTargets
from stages.training.memory_map import MappedArray
from stages.training.plan import EpochPlan
from stages.training.schedule import Weights
from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.targets import ArraySpec, create_arrays, read_rows, write_block
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import Folder

SPEC = ArraySpec("bits", (3,), "uint8")


@pytest.fixture(autouse=True)
def shared(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the machine's shared memory with a folder, and returns the folder of the maps in it."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(memory_map, "_SHARED_MEMORY", folder)
    return folder / f"odkd-{os.getuid()}"


def write_bits(folder: LocalPath, value: int) -> LocalPath:
    folder.mkdir()
    create_arrays(folder, (SPEC,), 10)
    write_block(folder, 0, {"bits": np.full((10, 3), value, np.uint8)})
    return folder


def taught_by(primary: Folder | None = None, senior: Folder | None = None) -> EpochPlan:
    weights = Weights(1.0, primary=float(primary is not None), senior=float(senior is not None))
    return EpochPlan(view=1, weights=weights, primary=primary, senior=senior)


def files(shared: Path) -> set[str]:
    return {path.name for path in shared.glob("*.raw")}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def one_worker(epochs: list[EpochPlan]) -> CachedTargets:
    return CachedTargets(epochs, decodes=True, barrier=lambda: None)


def test_the_next_epoch_is_decoded_during_the_current_one(tmp_path: LocalPath, shared: Path) -> None:
    first, second = write_bits(tmp_path / "first", 1), write_bits(tmp_path / "second", 2)
    maps = one_worker([taught_by(primary=first), taught_by(senior=second)])
    assert (maps.of_epoch(0)["primary"].rows == 1).all()
    wait_until(lambda: len(files(shared)) == 2)
    # The map is decoded already, so the entry is not read again.
    shutil.rmtree(second)
    teachers = maps.of_epoch(1)
    assert set(teachers) == {"senior"}
    assert (teachers["senior"].rows == 2).all()
    assert len(files(shared)) == 1, "the map of the first epoch is closed"
    maps.close()
    assert files(shared) == set()


def test_a_map_that_several_epochs_read_stays(tmp_path: LocalPath, shared: Path) -> None:
    folder = write_bits(tmp_path / "both", 3)
    maps = one_worker([taught_by(primary=folder)] * 3)
    first = maps.of_epoch(0)["primary"]
    assert maps.of_epoch(1)["primary"] is maps.of_epoch(2)["primary"] is first
    maps.close()
    assert files(shared) == set()


def test_an_epoch_on_labels_alone_needs_no_map(tmp_path: LocalPath, shared: Path) -> None:
    maps = one_worker([taught_by(), taught_by(primary=write_bits(tmp_path / "later", 4))])
    assert maps.of_epoch(0) == {}
    assert (maps.of_epoch(1)["primary"].rows == 4).all()
    maps.close()
    assert files(shared) == set()


def test_an_unreadable_array_raises_in_the_epoch_that_reads_it(tmp_path: LocalPath) -> None:
    good, bad = write_bits(tmp_path / "good", 1), write_bits(tmp_path / "bad", 2)
    [shard] = [path for path in (bad / "bits" / "c").rglob("*") if path.is_file()]
    shard.write_bytes(shard.read_bytes()[:-9])
    maps = one_worker([taught_by(primary=good), taught_by(primary=bad)])
    assert (maps.of_epoch(0)["primary"].rows == 1).all()
    with pytest.raises(CorruptEntryError, match="bad"):
        maps.of_epoch(1)
    maps.close()


def test_a_map_that_failed_ahead_is_retried_when_its_epoch_comes(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """There can be room for the maps of one epoch but not of two."""
    first, second = write_bits(tmp_path / "first", 1), write_bits(tmp_path / "second", 2)
    tried: list[LocalPath] = []
    real = MappedArray

    def mapped_array(folder: LocalPath, name: str) -> MappedArray:
        tried.append(folder)
        if tried == [first, second]:
            raise StoreError("no room")
        return real(folder, name)

    monkeypatch.setattr(cached_targets, "MappedArray", mapped_array)
    maps = one_worker([taught_by(primary=first), taught_by(primary=second)])
    maps.of_epoch(0)
    # Without this a slow machine asks for the second epoch before its map has failed.
    futures.wait(maps._maps.values())
    assert (maps.of_epoch(1)["primary"].rows == 2).all()
    assert tried == [first, second, second]
    maps.close()


def test_workers_of_a_node_share_what_the_first_decodes(
    tmp_path: LocalPath, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers are threads with a real barrier: each reads the right rows, and each entry is decoded once."""
    epochs = [taught_by(primary=write_bits(tmp_path / str(number), number)) for number in (5, 6)]
    barrier = threading.Barrier(2, timeout=20)
    seen: dict[bool, list[int]] = {True: [], False: []}
    reads: list[str] = []

    def slow_read(folder: LocalPath, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        reads.append(folder.name)
        # Long enough for a worker that does not wait to start decoding by itself.
        time.sleep(0.2)
        return read_rows(folder, name, start, stop)

    monkeypatch.setattr(memory_map, "read_rows", slow_read)

    def wait() -> None:
        barrier.wait()

    def work(*, decodes: bool) -> None:
        maps = CachedTargets(epochs, decodes=decodes, barrier=wait)
        for epoch in range(2):
            seen[decodes].append(int(maps.of_epoch(epoch)["primary"].rows[0, 0]))
            barrier.wait()
        maps.close()

    threads = [threading.Thread(target=work, kwargs={"decodes": decodes}) for decodes in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == {True: [5, 6], False: [5, 6]}
    # Ten rows are one block, and so one read.
    assert reads == ["5", "6"]
    assert files(shared) == set()
