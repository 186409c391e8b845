"""The home of a command (``--home``, $ODKD_HOME or ``~/.odkd``), and the upstream home that is only read."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

from storage_schemas.errors import Remedy, StoreError
from storage_schemas.paths.bucket import SCHEMES
from storage_schemas.paths.path import StorePath, parse_path

__all__ = ["HOME_HELP", "UPSTREAM_HELP", "has_store", "home_of", "make_home", "upstream_if_there", "upstream_of"]

log = logging.getLogger("pipeline")

_ALLOWED = " or ".join(["an absolute path on storage that every node sees", *(f"{each}://BUCKET/PREFIX" for each in SCHEMES)])
HOME_HELP = "an absolute path that every node sees, or s3://BUCKET/PREFIX (default: $ODKD_HOME, else ~/.odkd)"
UPSTREAM_HELP = (
    "another home, such as a team's, that is only read: its entries are used and not built (default: $ODKD_UPSTREAM)"
)


def home_of(option: str | None) -> StorePath:
    """The home that ``--home`` or the environment names; check that it can exist, without creating it.

    Raises:
        StoreError: it is relative, a URI of another kind, empty or not a folder.
    """
    text = os.environ.get("ODKD_HOME", "~/.odkd") if option is None else option
    if not text:
        source = "ODKD_HOME" if option is None else "--home"
        raise StoreError(f"{source} is empty", allowed=f"{_ALLOWED}, or to leave it out")
    home = _place("home", text)
    if not home.is_absolute():
        raise StoreError(
            f"The home '{text}' is relative" + (" (ODKD_HOME)" if option is None else ""),
            allowed="an absolute path: a submitted job runs in a temporary folder, and later jobs must find what it left",
            remedy=Remedy("repeat", home=str(Path(text).absolute())),
        )
    if stray := home.not_a_folder():
        raise StoreError(f"The home {home} cannot be made: {stray.seen}", allowed="a folder that this user may write")
    return home


def upstream_if_there(option: str | None, home: StorePath) -> StorePath | None:
    """As ``upstream_of``, but warn and return None if the upstream home cannot be read."""
    try:
        return upstream_of(option, home)
    except StoreError as error:
        log.warning("%s", error.seen)
        return None


def upstream_of(option: str | None, own: StorePath) -> StorePath | None:
    """The upstream home that ``--upstream`` or the environment names; None if neither does.

    It is None as well if it is the ``own`` home, as in an environment that a whole team shares.

    Raises:
        StoreError: it has no store, or the option is empty.
    """
    if option == "":
        raise StoreError("--upstream is empty", allowed=f"{_ALLOWED}, or to leave it out")
    text = os.environ.get("ODKD_UPSTREAM", "") if option is None else option
    if not text:
        return None
    home = _place("upstream home", text)
    if not home.is_absolute():
        raise StoreError(
            f"The upstream home '{text}' is relative",
            allowed="an absolute path, which every node sees, or s3://BUCKET/PREFIX",
            remedy=Remedy("repeat", upstream=str(Path(text).absolute())),
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
    scheme, is_url, rest = text.partition("://")
    if is_url and scheme not in SCHEMES:
        raise StoreError(f"The {what} '{text}' is a URI", allowed=_ALLOWED)
    # A home without a prefix would share the bucket with everything else in it.
    if is_url and (rest.startswith("/") or "/" not in rest.strip("/") or {".", ".."} & set(rest.split("/"))):
        raise StoreError(f"The {what} '{text}' names no folder in a bucket", allowed="s3://BUCKET/PREFIX without . and ..")
    return parse_path(text)


def make_home(home: StorePath) -> None:
    """Make the folder if needed, and check that this user may write into it.

    Raises:
        StoreError: this user may not make it, or not write into it.
    """
    probe = home / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        home.make_folders()
        probe.write_atomic(b"", durable=False)
        probe.unlink()
    except OSError as error:
        raise _unusable(home, error) from error


def has_store(home: StorePath) -> bool:
    """True if the home has a store.

    Raises:
        StoreError: the home, such as one in a bucket, cannot be read.
    """
    try:
        return (home / "store").is_dir()
    except OSError as error:
        raise _unusable(home, error) from error


def _unusable(home: StorePath, error: OSError) -> StoreError:
    return StoreError(
        f"The home {home} cannot be used: {error.strerror}",
        allowed="a folder that this user may write, or an existing bucket with the AWS_* variables (endpoint, region, "
        "credentials) that lead to it",
    )
