"""The files of stored crops: what is read is what was written, and nothing else is ever given out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.windows import CROPS_INDEX, CropShards, StoredCrop, read_index, write_index, write_shard
from tests.support.errors import suggested

AGAIN = "the same command with --stage prepare --force"


def store(folder: Path) -> dict[int, bytes]:
    """The crops of the people 7, 3 and 9 in two shards, and what was written of each."""
    jpegs = {7: b"seven", 3: b"three" * 20, 9: b"nine"}
    crops = []
    for shard, people in (("crops-00000-000.jpegs", [7, 3]), ("crops-00001-000.jpegs", [9])):
        entry_ids = write_shard(folder, shard, [jpegs[person] for person in people])
        crops += [
            StoredCrop(person, 16, 32, person, 2 * person, shard, *entry_id)
            for person, entry_id in zip(people, entry_ids, strict=True)
        ]
    write_index(folder, crops)
    return jpegs


def test_each_person_has_the_bytes_that_were_written_and_whoever_has_none_is_told(tmp_path: Path) -> None:
    jpegs = store(tmp_path)
    assert (tmp_path / "crops-00000-000.jpegs").read_bytes() == jpegs[7] + jpegs[3]
    shards = CropShards(tmp_path)
    rows = shards.index.rows_of(np.array([9, 1, 3, 7, 100]))
    assert (rows >= 0).tolist() == [True, False, True, True, False]
    assert [shards.read(row) for row in rows[rows >= 0].tolist()] == [jpegs[9], jpegs[3], jpegs[7]]
    assert shards.index.window_N4[rows[0]].tolist() == [16, 32, 9, 18]
    shards.close()


def test_no_crops_at_all_are_an_index_too(tmp_path: Path) -> None:
    write_index(tmp_path, [])
    assert read_index(tmp_path).rows_of(np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("position", [0, 5, 104])
def test_a_changed_byte_of_a_shard_is_found_when_it_is_read(tmp_path: Path, position: int) -> None:
    store(tmp_path)
    path = tmp_path / "crops-00000-000.jpegs"
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    shards = CropShards(tmp_path)
    damaged, whole = (7, 3) if position < 5 else (3, 7)
    assert shards.read(int(shards.index.rows_of(np.array([whole]))[0]))
    with pytest.raises(CorruptEntryError, match=f"the crop of person {damaged} differs from the bytes written") as caught:
        shards.read(int(shards.index.rows_of(np.array([damaged]))[0]))
    assert suggested(caught.value) == AGAIN
    shards.close()


def test_a_truncated_shard_a_missing_one_and_a_missing_index_are_named(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / "crops-00000-000.jpegs"
    path.write_bytes(path.read_bytes()[:50])
    shards = CropShards(tmp_path)
    with pytest.raises(CorruptEntryError, match=r"crops-00000-000\.jpegs cannot be used: the crop of person 3"):
        shards.read(int(shards.index.rows_of(np.array([3]))[0]))
    shards.close()
    path.unlink()
    with pytest.raises(CorruptEntryError, match=r"crops-00000-000\.jpegs cannot be used: No such file") as caught:
        CropShards(tmp_path)
    assert suggested(caught.value) == AGAIN
    (tmp_path / CROPS_INDEX).unlink()
    with pytest.raises(CorruptEntryError, match="cannot be read") as caught:
        CropShards(tmp_path)
    assert suggested(caught.value) == AGAIN


def test_an_index_of_another_version_or_with_other_columns_is_refused(tmp_path: Path) -> None:
    store(tmp_path)
    table = pq.read_table(tmp_path / CROPS_INDEX)
    pq.write_table(table.replace_schema_metadata({b"odkd_crops": b"2"}), tmp_path / CROPS_INDEX)
    with pytest.raises(StoreError, match="version 2"):
        read_index(tmp_path)
    pq.write_table(table.drop_columns(["crc32"]), tmp_path / CROPS_INDEX)
    with pytest.raises(CorruptEntryError, match="other columns"):
        read_index(tmp_path)
