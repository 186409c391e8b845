"""Maps of cached arrays: the same rows, made once, shared, and gone afterwards."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from stages.data import mapped
from stages.data.mapped import MappedArray
from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.targets import ArraySpec, create_arrays, read_rows, write_block

ROWS = 700  # three blocks of 256, the last one short
SPEC = ArraySpec("bits", (5,), "uint8")
USER = f"odkd-{os.getuid()}"

KILLED = """
import os, signal, sys
from pathlib import Path
from stages.data import mapped
mapped._SHARED_MEMORY = Path(sys.argv[2])
mapped.MappedArray(Path(sys.argv[1]), "bits")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for shared memory; the disk is beside it."""
    for name in ("memory", "disk"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(mapped, "_SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(mapped.tempfile, "gettempdir", lambda: str(tmp_path / "disk"))  # type: ignore[attr-defined]
    return tmp_path / "memory"


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "entry"
    create_arrays(folder, (SPEC,), ROWS)
    rows = np.random.default_rng(0).integers(0, 256, (ROWS, 5), dtype=np.uint8)
    for block in range(3):
        write_block(folder, block, {"bits": rows[block * 256 : (block + 1) * 256]})
    return folder


def _files(place: Path) -> list[str]:
    return [path.name for path in place.rglob("*") if path.is_file()]


def _refuse(*_: object) -> npt.NDArray[np.uint8]:
    raise AssertionError("decoded a second time")


def test_a_map_has_the_rows_of_the_array(entry: Path, memory: Path) -> None:
    array = MappedArray(entry, "bits")
    assert array.rows.dtype == np.uint8
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    assert not array.rows.flags.writeable
    array.close()


def test_the_file_is_private_and_goes_with_the_map(entry: Path, memory: Path) -> None:
    array = MappedArray(entry, "bits")
    (file,) = _files(memory)
    assert file.endswith(".raw")
    assert (memory / USER).stat().st_mode & 0o777 == 0o700
    kept = array.rows[:3]
    array.close()
    assert _files(memory) == []
    assert np.array_equal(kept, read_rows(entry, "bits", 0, 3))


def test_a_second_map_of_an_array_is_the_same_file_and_the_last_to_close_removes_it(
    entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MappedArray(entry, "bits")
    expected = read_rows(entry, "bits")
    monkeypatch.setattr(mapped, "read_rows", _refuse)
    # The first file takes the room that there was: the second map must find it all the same.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    second = MappedArray(entry, "bits")
    first.close()
    assert len(_files(memory)) == 1
    assert np.array_equal(second.rows, expected)
    second.close()
    assert _files(memory) == []


def test_what_a_killed_process_left_is_used_and_removed(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(entry), str(memory)], check=False, timeout=60)
    assert len(_files(memory)) == 1
    expected = read_rows(entry, "bits")
    monkeypatch.setattr(mapped, "read_rows", _refuse)
    array = MappedArray(entry, "bits")
    assert np.array_equal(array.rows, expected)
    array.close()
    assert _files(memory) == []


def test_arrays_of_other_entries_are_other_files(entry: Path, memory: Path, tmp_path: Path) -> None:
    shutil.copytree(entry, tmp_path / "other")
    arrays = [MappedArray(entry, "bits"), MappedArray(tmp_path / "other", "bits")]
    assert len(_files(memory)) == 2
    for array in arrays:
        array.close()


def test_too_small_a_shared_memory_sends_the_map_to_the_disk_and_says_so(
    entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = ROWS * 5
    free = {memory: size, memory.with_name("disk"): 10 * size}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[Path(folder).parent]))
    with caplog.at_level(logging.WARNING):
        array = MappedArray(entry, "bits")
    assert _files(memory) == []
    assert len(_files(memory.with_name("disk"))) == 1
    assert f"{memory} has 0 MB free, too little for the 0 MB of {entry}/bits" in caplog.text
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    array.close()
    assert _files(memory.with_name("disk")) == []


def test_room_that_is_not_there_is_an_error_and_not_a_crash(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="no room for 3500 bytes of cached targets: No space left on device"):
        MappedArray(entry, "bits")
    assert _files(memory) == []


def test_a_damaged_array_leaves_no_file(entry: Path, memory: Path) -> None:
    shard = entry / "bits/c/1/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptEntryError):
        MappedArray(entry, "bits")
    assert _files(memory) == []


def test_a_folder_of_another_user_is_not_used(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.getuid()
    # To user ``real + 1`` the folders of that name, which this user makes here, are another's.
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    with pytest.raises(StoreError, match="can be written"):
        MappedArray(entry, "bits")
