"""The home that a command works in: ``--home``, else the environment's, else ``~/.odkd``."""

from __future__ import annotations

import os
from pathlib import Path

from storage_schemas.errors import StoreError

__all__ = ["HOME_HELP", "home_of", "make_home"]

HOME_HELP = "an absolute path that every node sees (default: $ODKD_HOME, else ~/.odkd)"


def home_of(option: str | None) -> Path:
    """The home that ``--home`` or the environment names; it is not made, only seen to be possible.

    Raises:
        StoreError: it is relative, a URI, empty or not a folder.
    """
    text = os.environ.get("ODKD_HOME", "~/.odkd") if option is None else option
    if not text:
        source = "ODKD_HOME" if option is None else "--home"
        raise StoreError(f"{source} is empty", allowed="an absolute path on storage that every node sees, or to leave it out")
    if "://" in text:
        raise StoreError(f"The home '{text}' is a URI", allowed="an absolute path on storage that every node sees")
    try:
        home = Path(text).expanduser()
    except RuntimeError as error:
        raise StoreError(f"The home '{text}': {error}", allowed="an absolute path") from error
    if not home.is_absolute():
        raise StoreError(
            f"The home '{text}' is relative" + (" (ODKD_HOME)" if option is None else ""),
            allowed="an absolute path: a submitted job runs in a temporary folder, and later jobs must find what it left",
            run="repeat the command with --home /absolute/folder",
        )
    if not next(path for path in (home, *home.parents) if path.exists()).is_dir():
        raise StoreError(f"The home {home} cannot be made: Not a directory", allowed="a folder that this user may write")
    return home


def make_home(home: Path) -> None:
    """Make the folder, unless it is there.

    Raises:
        StoreError: this user may not make it, or not write into it.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The home {home} cannot be made: {error.strerror}", allowed="a folder that this user may write"
        ) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise StoreError(f"The home {home} is not writable", allowed="a folder that this user may write")
