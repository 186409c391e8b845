"""Maps of cached arrays: equal rows, decoded once, shared by processes, and deleted afterwards."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

from stages.training import memory_map as mapped
from stages.training.memory_map import MappedArray
from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.targets import ArraySpec, create_arrays, read_rows, write_block

ROWS = 700  # three blocks of 256, the last one short
SPEC = ArraySpec("bits", (5,), "uint8")
USER = f"odkd-{os.getuid()}"

KILLED = """
import os, signal, sys
from pathlib import Path
from stages.training import memory_map as mapped
mapped._SHARED_MEMORY = Path(sys.argv[2])
mapped.MappedArray(Path(sys.argv[1]), "bits")
os.kill(os.getpid(), signal.SIGKILL)
"""


KILLED_WHILE_DECODING = """
import os, signal, sys
from pathlib import Path
from stages.training import memory_map as mapped
mapped._SHARED_MEMORY = Path(sys.argv[2])
real, blocks = mapped.read_rows, []
def read_rows(*place):
    blocks.append(place)
    if len(blocks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*place)
mapped.read_rows = read_rows
mapped.MappedArray(Path(sys.argv[1]), "bits")
"""

HOLDING = """
import sys
from pathlib import Path
from stages.training import memory_map as mapped
mapped._SHARED_MEMORY = Path(sys.argv[2])
array = mapped.MappedArray(Path(sys.argv[1]), "bits")
print("held", flush=True)
sys.stdin.readline()
array.close()
"""


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of shared memory; the disk is another folder."""
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


def _files(path: Path) -> list[str]:
    return [path.name for path in path.rglob("*") if path.is_file()]


def _refuse(*_: object) -> npt.NDArray[np.uint8]:
    raise AssertionError("decoded a second time")


def test_a_map_has_the_rows_of_the_array(entry: Path, memory: Path) -> None:
    array = MappedArray(entry, "bits")
    assert array.rows.dtype == np.uint8
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    assert not array.rows.flags.writeable
    array.close()


def test_the_file_is_private_and_is_deleted_with_the_map(entry: Path, memory: Path) -> None:
    array = MappedArray(entry, "bits")
    (file,) = _files(memory)
    assert file.endswith(".raw")
    assert (memory / USER).stat().st_mode & 0o777 == 0o700
    kept = array.rows[:3]
    array.close()
    assert _files(memory) == []
    assert np.array_equal(kept, read_rows(entry, "bits", 0, 3))


def test_two_maps_of_an_array_share_a_file_and_the_last_to_close_deletes_it(
    entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MappedArray(entry, "bits")
    expected = read_rows(entry, "bits")
    monkeypatch.setattr(mapped, "read_rows", _refuse)
    # The first file takes all the room, but the second map must still find that file.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    second = MappedArray(entry, "bits")
    first.close()
    assert len(_files(memory)) == 1
    assert np.array_equal(second.rows, expected)
    second.close()
    assert _files(memory) == []


def test_a_file_of_a_killed_process_is_reused_and_deleted(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(entry), str(memory)], check=False, timeout=60)
    assert len(_files(memory)) == 1
    expected = read_rows(entry, "bits")
    monkeypatch.setattr(mapped, "read_rows", _refuse)
    array = MappedArray(entry, "bits")
    assert np.array_equal(array.rows, expected)
    array.close()
    assert _files(memory) == []


def test_partial_files_of_killed_processes_are_deleted(entry: Path, memory: Path, tmp_path: Path) -> None:
    shutil.copytree(entry, tmp_path / "other")
    for folder in (entry, tmp_path / "other"):
        subprocess.run([sys.executable, "-c", KILLED_WHILE_DECODING, str(folder), str(memory)], check=False, timeout=60)
        # The second killed process has deleted the file of the first.
        assert [Path(file).suffix for file in _files(memory)] == [".partial"]
    array = MappedArray(entry, "bits")
    assert [Path(file).suffix for file in _files(memory)] == [".raw"]
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    array.close()
    assert _files(memory) == []


def test_a_killed_process_file_of_another_array_is_deleted(entry: Path, memory: Path, tmp_path: Path) -> None:
    shutil.copytree(entry, tmp_path / "other")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "other"), str(memory)], check=False, timeout=60)
    (left,) = _files(memory)
    array = MappedArray(entry, "bits")
    assert left not in _files(memory)
    array.close()
    assert _files(memory) == []


def test_a_file_that_a_living_process_uses_stays(entry: Path, memory: Path, tmp_path: Path) -> None:
    shutil.copytree(entry, tmp_path / "other")
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "other"), str(memory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (held,) = _files(memory)
        array = MappedArray(entry, "bits")
        array.close()
        assert _files(memory) == [held]
        holder.stdin.write("\n")
    assert holder.returncode == 0
    assert _files(memory) == []


def test_a_file_from_before_a_reboot_is_not_used(
    entry: Path, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(entry), str(memory)], check=False, timeout=60)
    (left,) = (memory / USER).iterdir()
    # The file has its size but not its content, as after a power failure.
    left.write_bytes(bytes(left.stat().st_size))
    (tmp_path / "boot_id").write_text("another start\n")
    monkeypatch.setattr(mapped, "_BOOT_ID", tmp_path / "boot_id")
    array = MappedArray(entry, "bits")
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    assert not left.exists()
    array.close()
    assert _files(memory) == []


def test_maps_work_without_a_boot_id(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_BOOT_ID", memory / "none")
    array = MappedArray(entry, "bits")
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    array.close()


def test_a_file_gets_its_final_name_only_after_its_content_is_synced(
    entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], bytes]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        seen.append(([Path(file).suffix for file in _files(memory)], os.pread(descriptor, ROWS * 5, 0)))

    monkeypatch.setattr(os, "fsync", fsync)
    array = MappedArray(entry, "bits")
    assert seen == [([".partial"], read_rows(entry, "bits").tobytes())]
    array.close()


def test_files_that_other_processes_delete_before_the_lock_are_created_again(
    entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(entry), str(memory)], check=False, timeout=60)
    real = fcntl.flock
    removed: list[str] = []

    def flock(stream: BinaryIO, operation: int) -> None:
        suffix = Path(stream.name).suffix
        if operation == fcntl.LOCK_SH and suffix not in removed:
            Path(stream.name).unlink()
            removed.append(suffix)
        real(stream, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    array = MappedArray(entry, "bits")
    assert removed == [".raw", ".partial"]
    assert [Path(file).suffix for file in _files(memory)] == [".raw"]
    assert np.array_equal(array.rows, read_rows(entry, "bits"))
    array.close()
    assert _files(memory) == []


def test_arrays_of_different_entries_have_different_files(entry: Path, memory: Path, tmp_path: Path) -> None:
    shutil.copytree(entry, tmp_path / "other")
    arrays = [MappedArray(entry, "bits"), MappedArray(tmp_path / "other", "bits")]
    assert len(_files(memory)) == 2
    for array in arrays:
        array.close()


def test_a_map_goes_to_disk_with_a_warning_if_shared_memory_is_too_small(
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


def test_a_full_disk_is_an_error_and_not_a_crash(entry: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="3500 bytes"):
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
    # The folders that this process creates belong to user ``real``, which is another user than ``real + 1``.
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    with pytest.raises(StoreError, match="writable"):
        MappedArray(entry, "bits")
