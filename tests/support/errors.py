"""What an error tells the user to do next, as text."""

from __future__ import annotations

from pipeline.cache.advice import command
from storage_schemas.errors import OdkdError

__all__ = ["suggested"]


def suggested(error: OdkdError, typed: str = "") -> str:
    """The command that the command line prints behind ``Next:``."""
    assert error.remedy is not None, f"{error} has no remedy"
    return command(error.remedy, typed)
