"""Real photographs and reference numbers for tests, which the project does not ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage_schemas.paths.local import LocalPath


def shared_data(name: str) -> LocalPath:
    """Return the folder ``name`` below ``ODKD_TEST_DATA``; skip the test if it does not exist."""
    root = LocalPath(os.environ.get("ODKD_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"test data '{name}' is absent: set ODKD_TEST_DATA to the folder that holds it")
    return folder
