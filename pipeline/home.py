"""The home that a command works in: ``--home``, else the environment's, else ``~/.odkd``; and a team's upstream it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.bucket import SCHEMES, BucketPath
from storage_schemas.paths.path import StorePath, parse_path

__all__ = ["HOME_HELP", "UPSTREAM_HELP", "home_of", "make_home", "upstream_if_there", "upstream_of"]

log = logging.getLogger("pipeline")

_ALLOWED = " or ".join(["an absolute path on storage that every node sees", *(f"{each}://BUCKET/PREFIX" for each in SCHEMES)])
HOME_HELP = "an absolute path that every node sees, or s3://BUCKET/PREFIX (default: $ODKD_HOME, else ~/.odkd)"
UPSTREAM_HELP = (
    "another home, such as a team's: what is found there is not made, and nothing is written (default: $ODKD_UPSTREAM)"
)


def home_of(option: str | None) -> StorePath:
    """The home that ``--home`` or the environment names; it is not made, only seen to be possible.

    Raises:
        StoreError: it is relative, a URI of another kind, empty or not a folder.
    """
    text = os.environ.get("ODKD_HOME", "~/.odkd") if option is None else option
    if not text:
        source = "ODKD_HOME" if option is None else "--home"
        raise StoreError(f"{source} is empty", allowed=f"{_ALLOWED}, or to leave it out")
    home = _place("home", text)
    if not isinstance(home, Path):
        return home
    if not home.is_absolute():
        raise StoreError(
            f"The home '{text}' is relative" + (" (ODKD_HOME)" if option is None else ""),
            allowed="an absolute path: a submitted job runs in a temporary folder, and later jobs must find what it left",
            remedy=Remedy("repeat", home=str(home.absolute())),
        )
    if not next(path for path in (home, *home.parents) if path.exists()).is_dir():
        raise StoreError(f"The home {home} cannot be made: Not a directory", allowed="a folder that this user may write")
    return home


def upstream_if_there(option: str | None, home: StorePath) -> StorePath | None:
    """As ``upstream_of``, for whoever only proposes commands: one that is out of reach is warned of, and is none."""
    try:
        return upstream_of(option, home)
    except StoreError as error:
        log.warning("%s", error.seen)
        return None


def upstream_of(option: str | None, own: StorePath) -> StorePath | None:
    """The home that ``--upstream`` or the environment names, to be read upstream one's ``own``; None if there is none.

    Nor is there one where that is one's own, as it may be in an environment that is set up for all.

    Raises:
        StoreError: it is not a home: it holds no store; or the option is empty.
    """
    if option == "":
        raise StoreError("--upstream is empty", allowed=f"{_ALLOWED}, or to leave it out")
    text = os.environ.get("ODKD_UPSTREAM", "") if option is None else option
    if not text:
        return None
    home = _place("upstream home", text)
    if isinstance(home, Path) and not home.is_absolute():
        raise StoreError(
            f"The upstream home '{text}' is relative",
            allowed="an absolute path, which every node sees, or s3://BUCKET/PREFIX",
            remedy=Remedy("repeat", upstream=str(home.absolute())),
        )
    try:
        if (home / "store").is_dir():
            return None if home == own else home
        problem = "there is no store in it"
    except OSError as error:
        problem = error.strerror or str(error)
    raise StoreError(
        f"The upstream home '{text}' cannot be read: {problem}",
        allowed="an existing home, which is only read: an absolute path, or s3://BUCKET/PREFIX",
        remedy=Remedy("advice", text="the same command without --upstream (and without ODKD_UPSTREAM)"),
    )


def _place(what: str, text: str) -> StorePath:
    place = parse_path(text)
    if isinstance(place, BucketPath):
        # One that is all of a bucket would share it with whatever else is there.
        if place.bucket.endswith("://") or not place.key:
            raise StoreError(f"The {what} '{text}' names no place in a bucket", allowed="s3://BUCKET/PREFIX")
        if {".", ".."} & set(place.key.split("/")):
            raise StoreError(
                f"The {what} '{text}' has parts that lead elsewhere", allowed="s3://BUCKET/PREFIX without . and .."
            )
        return place
    if "://" in text:
        raise StoreError(f"The {what} '{text}' is a URI", allowed=_ALLOWED)
    try:
        return place.expanduser()
    except RuntimeError as error:
        raise StoreError(f"The {what} '{text}': {error}", allowed="an absolute path") from error


def make_home(home: StorePath) -> None:
    """Make the folder, unless it is there; of a bucket see that it is there.

    Raises:
        StoreError: this user may not make it, or not write into it.
    """
    if isinstance(home, BucketPath):
        try:
            home.is_dir()
        except OSError as error:
            raise StoreError(
                f"The home {home} cannot be used: {error.strerror}",
                allowed="a bucket that is there, with the AWS_* variables (endpoint, region, credentials) that lead to it",
            ) from error
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The home {home} cannot be made: {error.strerror}", allowed="a folder that this user may write"
        ) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise StoreError(f"The home {home} is not writable", allowed="a folder that this user may write")
