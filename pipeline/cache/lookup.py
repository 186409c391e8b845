"""Shared by all commands of ``pipeline.cache``: open the store, find an entry, work until an error, answer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.cache.users import Users
from pipeline.home import has_store, home_of, make_home, upstream_if_there
from storage_schemas.errors import KINDS, CorruptEntryError, OdkdError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import damage_of_manifest

__all__ = ["Result", "entry_at", "open_store", "order_of", "until_error"]

log = logging.getLogger("pipeline")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Result:
    """What a command found: the data for ``--json``, the text for people, and the error that the command ends with, if any."""

    data: object
    text: str
    error: OdkdError | None = None


def open_store(options: argparse.Namespace, *, make: bool = False) -> tuple[StorePath, Store]:
    """The home and its store; warn if the home has no store yet."""
    home = home_of(options.home)
    if make:
        make_home(home)
    elif not has_store(home):
        log.warning("There is no store in %s: nothing was made there yet, or another --home is meant", home)
    return home, Store(home / "store")


def entry_at(store: Store, entry_id: str, *, upstream: StorePath | None = None) -> Entry:
    """The entry with this id.

    Raises:
        MissingInputError: it does not exist.
        CorruptEntryError: its manifest cannot be read; the remedy rebuilds or deletes the entry.
        SchemaVersionError: it has another schema version.
    """
    try:
        return find_entry(store, entry_id)
    except CorruptEntryError as error:
        home = store.root.parent
        # A run with this environment would find the entry in $ODKD_UPSTREAM.
        upstream = upstream or upstream_if_there(None, home)
        remedy = Users.of(home).remedy(entry_id, damage_of_manifest(error), upstream)
        raise CorruptEntryError(error.seen, remedy=remedy) from error


def order_of(entry_id: str) -> tuple[int, str]:
    """Sorts entry ids by kind, in the order of the stages, in which damaged entries can be repaired."""
    kind = entry_id.partition("/")[0]
    return (KINDS.index(kind) if kind in KINDS else len(KINDS)), kind


def until_error(items: Iterable[Item], work: Callable[[Item], bool]) -> tuple[list[Item], OdkdError | None]:
    """Call ``work`` for each item: the items for which it returned True, and the error that stopped it, if any."""
    done: list[Item] = []
    for item in items:
        try:
            if work(item):
                done.append(item)
        except OdkdError as error:
            return done, error
    return done, None
