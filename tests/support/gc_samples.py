"""Garbage collection of a store with one entry: what it finds, what it leaves, and doing it."""

from __future__ import annotations

from collections.abc import Collection

from storage_schemas.store.gc import Garbage, find_garbage, remove
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Store
from tests.support.buckets import local
from tests.support.store_samples import RECIPE

__all__ = ["ENTRY_ID", "HOUR", "collect", "files_of_entry", "find", "ids_and_kinds", "left_alone"]

ENTRY_ID = f"targets/{key_of('targets', RECIPE)}"
HOUR = 3600.0


def find(store: Store, used: Collection[str] = (), hours: float = 24.0) -> list[Garbage]:
    """Find the garbage that is older than ``hours``."""
    return find_garbage(store, used, min_age_seconds=hours * HOUR)[0]


def left_alone(store: Store, used: Collection[str] = ()) -> dict[str, str]:
    """Return the entries that the search leaves alone, with the reasons."""
    return find_garbage(store, used, min_age_seconds=0)[1]


def ids_and_kinds(garbage: Collection[Garbage]) -> list[tuple[str, str]]:
    """Return the entry id and the kind of each piece of garbage."""
    return [(item.entry_id, item.what) for item in garbage]


def collect(store: Store, used: Collection[str] = ()) -> None:
    """Delete all garbage that is older than a day."""
    for item in find(store, used):
        assert remove(store, item, lambda: False)


def files_of_entry(store: Store) -> set[str]:
    """Return the names in the folder of the entry."""
    return {path.name for path in local(store.root / ENTRY_ID).iterdir()}
