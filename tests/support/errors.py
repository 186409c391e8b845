"""The command that an error suggests, as text."""

from __future__ import annotations

from pipeline.cache.advice import command
from storage_schemas.errors import OdkdError

__all__ = ["suggested"]


def suggested(error: OdkdError, typed: str = "") -> str:
    """Return the command that is printed after ``Next:``."""
    assert error.remedy is not None, f"{error} has no remedy"
    return command(error.remedy, typed)
