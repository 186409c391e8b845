"""The files of windows: reading returns the bytes written, or raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.windows import WINDOWS_INDEX, StoredWindow, WindowShards, write_index, write_shard
from tests.support.errors import suggested

REBUILD = "the same command with --stage prepare --force"


def store(folder: Path) -> dict[int, bytes]:
    """Write the windows of the instances 7, 3 and 9 into two shards; returns the JPEG of each."""
    jpegs = {7: b"seven", 3: b"three" * 20, 9: b"nine"}
    windows = []
    for shard, ids in (("windows-00000-000.jpegs", [7, 3]), ("windows-00001-000.jpegs", [9])):
        parts = write_shard(folder, shard, [jpegs[number] for number in ids])
        windows += [
            StoredWindow(number, 16, 32, number, 2 * number, shard, *part) for number, part in zip(ids, parts, strict=True)
        ]
    write_index(folder, windows)
    return jpegs


def test_each_instance_has_the_bytes_written_for_it_and_row_minus_one_without_a_window(tmp_path: Path) -> None:
    jpegs = store(tmp_path)
    assert (tmp_path / "windows-00000-000.jpegs").read_bytes() == jpegs[7] + jpegs[3]
    shards = WindowShards(tmp_path)
    rows = shards.rows_of(np.array([9, 1, 3, 7, 100]))
    assert (rows >= 0).tolist() == [True, False, True, True, False]
    assert [shards.read(row) for row in rows[rows >= 0].tolist()] == [jpegs[9], jpegs[3], jpegs[7]]
    assert shards.window_N4[rows[0]].tolist() == [16, 32, 9, 18]
    shards.close()


def test_an_index_may_be_empty(tmp_path: Path) -> None:
    write_index(tmp_path, [])
    assert WindowShards(tmp_path).rows_of(np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("position", [0, 5, 104])
def test_reading_a_changed_byte_of_a_shard_raises(tmp_path: Path, position: int) -> None:
    store(tmp_path)
    path = tmp_path / "windows-00000-000.jpegs"
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    shards = WindowShards(tmp_path)
    damaged, whole = (7, 3) if position < 5 else (3, 7)
    assert shards.read(int(shards.rows_of(np.array([whole]))[0]))
    with pytest.raises(CorruptEntryError, match=f"the window of instance {damaged} differs from the bytes written") as caught:
        shards.read(int(shards.rows_of(np.array([damaged]))[0]))
    assert suggested(caught.value) == REBUILD
    shards.close()


def test_errors_name_a_truncated_shard_a_missing_shard_and_a_missing_index(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / "windows-00000-000.jpegs"
    path.write_bytes(path.read_bytes()[:50])
    shards = WindowShards(tmp_path)
    with pytest.raises(CorruptEntryError, match=r"windows-00000-000\.jpegs cannot be used: the window of instance 3"):
        shards.read(int(shards.rows_of(np.array([3]))[0]))
    shards.close()
    path.unlink()
    with pytest.raises(CorruptEntryError, match=r"windows-00000-000\.jpegs cannot be used: No such file") as caught:
        WindowShards(tmp_path)
    assert suggested(caught.value) == REBUILD
    (tmp_path / WINDOWS_INDEX).unlink()
    with pytest.raises(CorruptEntryError, match="cannot be read") as caught:
        WindowShards(tmp_path)
    assert suggested(caught.value) == REBUILD


def test_an_index_of_another_version_or_with_other_columns_raises(tmp_path: Path) -> None:
    store(tmp_path)
    table = pq.read_table(tmp_path / WINDOWS_INDEX)
    pq.write_table(table.replace_schema_metadata({b"odkd_windows": b"2"}), tmp_path / WINDOWS_INDEX)
    with pytest.raises(StoreError, match="version 2"):
        WindowShards(tmp_path)
    pq.write_table(table.drop_columns(["crc32"]), tmp_path / WINDOWS_INDEX)
    with pytest.raises(CorruptEntryError, match="has the columns"):
        WindowShards(tmp_path)
