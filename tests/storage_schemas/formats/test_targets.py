"""Cached arrays: packing of known numbers, blocks as shards, and damage that raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage_schemas.errors import CorruptEntryError
from storage_schemas.formats.targets import (
    ArraySpec,
    block_files,
    create_arrays,
    metadata_files,
    pack_bits,
    read_rows,
    rows_per_block,
    target_arrays,
    unpack_bits,
    view_arrays,
    write_block,
)


def test_the_first_bit_is_the_highest_of_its_byte() -> None:
    bits = np.zeros((1, 2, 8), dtype=bool)
    bits[0, 0, 0] = bits[0, 0, 7] = bits[0, 1, 1] = True
    assert pack_bits(bits).tolist() == [[0b10000001, 0b01000000]]


@given(arrays(bool, array_shapes(min_dims=2, max_dims=4, max_side=5).map(lambda shape: (*shape, 8))))
def test_unpacking_returns_the_packed_bits(bits: np.ndarray) -> None:
    assert np.array_equal(unpack_bits(pack_bits(bits), bits.shape[1:]), bits)


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(CorruptEntryError, match="cannot hold 128 bits"):
        unpack_bits(np.zeros((2, 15), dtype=np.uint8), (2, 64))


@pytest.mark.parametrize(
    ("rows", "block"), [(1, 256), (2_000, 256), (16_384, 256), (16_385, 320), (149_813, 2_368), (10_000_000, 16_384)]
)
def test_a_block_is_a_64th_of_the_rows_in_whole_chunks(rows: int, block: int) -> None:
    assert rows_per_block(rows) == block


@given(st.integers(1, 20_000_000))
def test_blocks_are_whole_chunks_within_bounds(rows: int) -> None:
    block = rows_per_block(rows)
    assert block % 64 == 0
    assert 256 <= block <= 16_384


def test_the_layout_is_the_documented_one() -> None:
    assert target_arrays((48, 64), 17) == (ArraySpec("bits", (6528,), "uint8"), ArraySpec("peak", (17,), "float16"))
    assert [(spec.name, spec.row, spec.dtype) for spec in view_arrays((48, 64))] == [
        ("affine", (2, 3), "float32"),
        ("flip", (), "bool"),
        ("mask", (384,), "uint8"),
        ("has_mask", (), "bool"),
    ]


def _write(folder: Path, rows: int) -> tuple[tuple[ArraySpec, ...], np.ndarray]:
    specs = (ArraySpec("bits", (96,), "uint8"),)
    values = np.random.default_rng(3).integers(0, 2, (rows, 96), dtype=np.uint8)
    create_arrays(folder, specs, rows)
    create_arrays(folder, specs, rows)
    for block in reversed(range(-(-rows // 256))):
        write_block(folder, block, {"bits": values[block * 256 : (block + 1) * 256]})
    return specs, values


def test_blocks_written_in_any_order_are_one_array_and_one_file_each(tmp_path: Path) -> None:
    specs, values = _write(tmp_path, 700)
    assert np.array_equal(read_rows(tmp_path, "bits"), values)
    assert np.array_equal(read_rows(tmp_path, "bits", 250, 300), values[250:300])
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*metadata_files(specs), *(name for block in range(3) for name in block_files(specs, block))}


def test_a_block_of_zeros_is_written_as_a_file(tmp_path: Path) -> None:
    specs = (ArraySpec("peak", (17,), "float16"), ArraySpec("flip", (), "bool"))
    create_arrays(tmp_path, specs, 10)
    write_block(tmp_path, 0, {"peak": np.zeros((10, 17), np.float16), "flip": np.zeros(10, bool)})
    assert all((tmp_path / name).stat().st_size > 0 for name in block_files(specs, 0))


def test_a_flipped_bit_raises(tmp_path: Path) -> None:
    specs, _ = _write(tmp_path, 300)
    shard = tmp_path / block_files(specs, 0)[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(CorruptEntryError, match="'bits'"):
        read_rows(tmp_path, "bits", 0, 256)
