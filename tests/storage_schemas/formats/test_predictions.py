"""Predictions: reading returns the rows written, and damage raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.predictions import read_predictions, write_predictions
from tests.support.errors import suggested

N = 40


def _columns() -> dict[str, Any]:
    return {
        "instance_id": np.arange(N) + 900100581904,
        "image_id": np.arange(N) // 3,
        "decoder": ["quarter" if row % 4 else "dark" for row in range(N)],
        "score": np.linspace(0, 1, N),
        "kept": np.arange(N) % 5 > 0,
    }


def _keypoints() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 50, (N, 17, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_predictions(tmp_path / "predictions.parquet", _columns(), _keypoints())
    return tmp_path / "predictions.parquet"


def test_reading_returns_the_rows_of_one_decoder(path: Path) -> None:
    for decoder, rows in (("dark", np.arange(0, N, 4)), ("quarter", np.flatnonzero(np.arange(N) % 4))):
        columns, keypoints = read_predictions(path, decoder)
        assert np.array_equal(keypoints, _keypoints()[rows])
        assert keypoints.dtype == np.float32
        for name in ("instance_id", "image_id", "score", "kept"):
            assert np.array_equal(columns[name], _columns()[name][rows])


def test_the_number_of_keypoints_is_that_of_the_data(path: Path) -> None:
    write_predictions(path, _columns(), _keypoints()[:, :5])
    assert read_predictions(path, "dark")[1].shape == (N // 4, 5, 3)


def test_another_decoder_has_no_rows(path: Path) -> None:
    columns, keypoints = read_predictions(path, "centroid")
    assert keypoints.shape == (0, 17, 3)
    assert len(columns["score"]) == 0


def test_a_truncated_file_raises(path: Path) -> None:
    data = path.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CorruptEntryError, match="cannot be read"):
            read_predictions(path, "dark")


def test_a_flipped_bit_raises_or_changes_nothing(path: Path) -> None:
    """Pages carry checksums; readers ignore some bits of their headers."""
    data, (whole, poses) = path.read_bytes(), read_predictions(path, "dark")
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    raised = 0
    positions = range(4, footer, 29)
    for at in positions:
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            columns, keypoints = read_predictions(path, "dark")
        except CorruptEntryError:
            raised += 1
            continue
        assert np.array_equal(keypoints, poses)
        assert all(np.array_equal(columns[name], whole[name]) for name in whole)
    assert raised > 0.95 * len(positions)


def test_another_table_and_a_missing_file_raise(path: Path) -> None:
    other = pa.table({"decoder": ["dark"], "score": [1.0]})
    pq.write_table(other, path)
    with pytest.raises(StoreError, match="version none"):
        read_predictions(path, "dark")
    pq.write_table(other.replace_schema_metadata({b"odkd_predictions": b"2"}), path)
    with pytest.raises(CorruptEntryError, match="the columns decoder, score"):
        read_predictions(path, "dark")
    path.unlink()
    with pytest.raises(CorruptEntryError):
        read_predictions(path, "dark")


def test_a_table_of_another_version_raises_with_any_columns(path: Path) -> None:
    table = pq.read_table(path)
    for changed in (table, table.drop_columns(["kept"])):
        pq.write_table(changed.replace_schema_metadata({b"odkd_predictions": b"3"}), path)
        with pytest.raises(StoreError, match="has version 3") as caught:
            read_predictions(path, "dark")
        assert "version 2" in caught.value.allowed
        assert "--stage evaluate --force" in suggested(caught.value)
