"""Shared by all commands of ``pipeline.cache``: open the store, find entries and their users, choose remedies."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from pipeline.cache.advice import command
from pipeline.experiments import Experiment, Run, experiments
from pipeline.home import has_store, home_of, make_home, upstream_if_there
from storage_schemas.errors import KINDS, CorruptEntryError, OdkdError, Remedy, UnreadableEntryError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry, find_entry_id, held
from storage_schemas.store.store import Entry, Store

__all__ = [
    "Result",
    "completed",
    "completing",
    "drop_remedy",
    "entry_at",
    "entry_named",
    "experiment_remedy",
    "experiment_run",
    "names_of",
    "open_store",
    "order_of",
    "remedy_of",
    "run_with",
    "users_of",
]

log = logging.getLogger("pipeline")


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


def entry_named(home: StorePath, store: Store, text: str, *, upstream: StorePath | None = None) -> Entry:
    """The entry that ``text`` means: a key or its beginning, alone or as ``kind/key``.

    Raises:
        ConfigError: no entry has such a key, or several have.
        CorruptEntryError: its manifest cannot be read; the remedy rebuilds the entry.
        SchemaVersionError: it has another schema version.
    """
    return entry_at(home, store, find_entry_id(store, text), upstream=upstream)


def entry_at(home: StorePath, store: Store, entry_id: str, *, upstream: StorePath | None = None) -> Entry:
    """The entry with this id.

    Raises:
        MissingInputError: it does not exist.
        CorruptEntryError: as ``entry_named``.
        SchemaVersionError: it has another schema version.
    """
    try:
        return find_entry(store, entry_id)
    except CorruptEntryError as error:
        # A run with this environment would find the entry in $ODKD_UPSTREAM.
        upstream = upstream or upstream_if_there(None, home)
        users, unreadable = users_of(home).get(entry_id, ()), isinstance(error, UnreadableEntryError)
        remedy = remedy_of(home, entry_id, error, users, unreadable=unreadable, upstream=upstream)
        raise CorruptEntryError(error.seen, remedy=remedy) from error


def order_of(kind: str) -> int:
    """The position of a kind in the order of the stages, in which damaged entries can be repaired."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def users_of(home: StorePath) -> dict[str, list[Run]]:
    """The runs that refer to each entry id, finished runs first; warn of experiments whose entries are unknown."""
    found: dict[str, list[Run]] = {}
    for experiment in experiments(home):
        if experiment.problem:
            suggested = command(experiment_remedy(home, experiment))
            log.warning(
                "The entries of experiment '%s' are unknown: %s; to find out: %s",
                experiment.name,
                experiment.problem,
                suggested,
            )
        for run in experiment.runs:
            for entry_id in run.entry_ids:
                found.setdefault(entry_id, []).append(run)
    return {entry_id: sorted(runs, key=lambda run: run.notes is not None) for entry_id, runs in found.items()}


def names_of(runs: Sequence[Run]) -> list[str]:
    """The names of the experiments that the runs belong to, each once."""
    return sorted({run.experiment for run in runs})


def remedy_of(
    home: StorePath,
    entry_id: str,
    found: Entry | CorruptEntryError,
    users: Sequence[Run],
    *,
    unreadable: bool,
    upstream: StorePath | None,
) -> Remedy:
    """The remedy for a damaged entry: repair or rebuild it, or drop it if no experiment uses it.

    ``found`` is the entry, or the error of its manifest; ``unreadable`` tells whether something of it cannot be read.
    """
    if unreadable:
        # The files may be intact: suggest no command that deletes them.
        return Remedy("verify", entry_id=entry_id, home=str(home))
    unsure = [] if users else [experiment for experiment in experiments(home) if experiment.problem]
    if unsure:
        # That experiment may use the entry.
        return experiment_remedy(home, unsure[0])
    run = experiment_run(home, users, upstream)
    if isinstance(found, Entry):
        if users or (upstream and found.twin(upstream)):
            return completed(found.mend(upstream), run)
    elif users and not (upstream and held(Store(upstream / "store"), [entry_id])):
        # Without a readable manifest the entry is missing: no file can be repaired, and a run rebuilds it without --force.
        return replace(run, kind=entry_id.partition("/")[0])
    # No experiment needs it, or a run would use the upstream entry and leave this one.
    return drop_remedy(home, entry_id, users)


def experiment_remedy(home: StorePath, experiment: Experiment) -> Remedy:
    """The remedy after which the entries of an experiment with a ``problem`` are known again."""
    folder = home / "runs" / experiment.name
    if experiment.spoilt is not None and experiment.spoilt != folder:
        # Notes of an interrupted run, which no other run overwrites.
        return Remedy("shell", text=experiment.spoilt.removal_command())
    return replace(experiment_run(home, [Run(experiment.name, folder, frozenset())]), stage="all")


def drop_remedy(home: StorePath, entry_id: str, users: Sequence[Run]) -> Remedy:
    """The remedy that deletes an entry."""
    return Remedy("drop", entry_id=entry_id, home=str(home), used=bool(users))


def experiment_run(home: StorePath, runs: Sequence[Run], upstream: StorePath | None = None) -> Remedy:
    """A run with the settings of the first of ``runs`` that still has them; warn if all settings are lost."""
    config = next((run.config for run in runs if run.config), None)
    name = runs[0].experiment if runs and config is None else ""
    if name:
        _warn_of_lost(name, home / "runs" / name)
    return replace(run_with(home, config, upstream), name=name)


def run_with(home: StorePath, config: StorePath | None, upstream: StorePath | None = None) -> Remedy:
    """A run with these settings; its stage or entry is still to be filled in."""
    return Remedy("run", home=str(home), config=str(config or ""), upstream=str(upstream or ""))


def completed(remedy: Remedy, run: Remedy) -> Remedy:
    """The remedy with the home and settings of ``run``, if it is a run that lacks them."""
    if remedy.action != "run" or remedy.home:
        return remedy
    return replace(remedy, home=run.home, config=run.config, name=run.name, upstream=run.upstream)


@contextmanager
def completing(run: Remedy) -> Iterator[None]:
    """Give the home and settings of ``run`` to the remedies of errors that are raised inside."""
    try:
        yield
    except OdkdError as error:
        error.remedy = error.remedy and completed(error.remedy, run)
        raise


@cache
def _warn_of_lost(name: str, folder: StorePath) -> None:
    """Warn once for each experiment."""
    log.warning(
        "The settings of experiment '%s' in %s are lost: FILE in a suggested command is a placeholder for them", name, folder
    )
