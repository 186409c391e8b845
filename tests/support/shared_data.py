"""Where tests find real photographs and reference numbers that the project does not ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage_schemas.paths.local import LocalPath


def shared_data(name: str) -> LocalPath:
    """The folder ``name`` of the test data, or a skip that says it is absent (set ODKD_TEST_DATA to point at it)."""
    root = LocalPath(os.environ.get("ODKD_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"test data '{name}' is absent: set ODKD_TEST_DATA to the folder that holds it")
    return folder
