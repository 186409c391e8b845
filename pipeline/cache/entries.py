"""What the commands on entries share: the store, who uses its entries, the remedies that follow, and the answer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TypeVar

from pipeline.cache.advice import command
from pipeline.experiments import Experiment, Run, experiments
from pipeline.home import has_store, home_of, make_home, upstream_if_there
from storage_schemas.errors import KINDS, CorruptEntryError, OdkdError, Remedy
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry, has_manifest
from storage_schemas.store.store import Entry, Store
from storage_schemas.store.verify import Damage, damage_of_manifest

__all__ = ["Result", "Users", "completed", "entry_at", "experiment_remedy", "open_store", "order_of", "until_error"]

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


@dataclass(frozen=True)
class Users:
    """The experiments of a home, and which entries their runs refer to."""

    home: StorePath
    experiments: Sequence[Experiment]

    @staticmethod
    def of(home: StorePath) -> Users:
        """Read the experiments of a home; warn of those whose entries are unknown."""
        users = Users(home, experiments(home))
        for experiment in users.unknown:
            seen = f"The entries of experiment '{experiment.name}' are unknown: {experiment.problem}"
            log.warning("%s; to find out: %s", seen, command(experiment_remedy(home, experiment)))
        return users

    @property
    def unknown(self) -> list[Experiment]:
        """The experiments whose entries are unknown."""
        return [experiment for experiment in self.experiments if experiment.problem]

    @cached_property
    def runs(self) -> Mapping[str, Sequence[Run]]:
        """The runs that refer to an entry, by its id; finished runs first."""
        runs = [run for experiment in self.experiments for run in experiment.runs]
        runs.sort(key=lambda run: run.notes is not None)
        used = {entry_id for run in runs for entry_id in run.entry_ids}
        return {entry_id: [run for run in runs if entry_id in run.entry_ids] for entry_id in used}

    def names(self, entry_id: str) -> list[str]:
        """The names of the experiments that use the entry."""
        return sorted({run.experiment for run in self.runs.get(entry_id, ())})

    def completed(self, remedy: Remedy, entry_id: str, upstream: StorePath | None) -> Remedy:
        """The remedy as the function ``completed`` returns it, with the settings of a run that uses the entry."""
        return completed(remedy, self.home, self.runs.get(entry_id, ()), upstream)

    def drop(self, entry_id: str, *, dry_run: bool = False) -> Remedy:
        """The remedy that deletes an entry."""
        return Remedy("drop", entry_id=entry_id, home=str(self.home), used=entry_id in self.runs, dry_run=dry_run)

    def remedy(self, entry_id: str, damage: Damage, upstream: StorePath | None) -> Remedy:
        """The remedy for a damaged entry: repair or rebuild it, or drop it if no experiment uses it."""
        if damage.is_unreadable:
            # The files may be intact: suggest no command that deletes them.
            return Remedy("verify", entry_id=entry_id, home=str(self.home))
        is_used = entry_id in self.runs
        if self.unknown and not is_used:
            # That experiment may use the entry.
            return experiment_remedy(self.home, self.unknown[0])
        if damage.entry:
            if is_used or (upstream and damage.entry.twin(upstream)):
                return self.completed(damage.entry.remedy(upstream), entry_id, upstream)
        elif is_used and not (upstream and has_manifest(upstream / "store" / entry_id)):
            # Without a readable manifest the entry is missing: no file can be repaired, and a run rebuilds it without --force.
            return self.completed(Remedy("run", entry_id=entry_id), entry_id, upstream)
        # No experiment needs it, or a run would use the upstream entry and leave this one.
        return self.drop(entry_id)


def experiment_remedy(home: StorePath, experiment: Experiment) -> Remedy:
    """The remedy after which the entries of an experiment with a ``problem`` are known again."""
    folder = home / "runs" / experiment.name
    spoilt = experiment.spoilt or folder
    if spoilt != folder:
        # Notes of an interrupted run, which no other run overwrites.
        return Remedy("shell", text=spoilt.removal_command())
    return completed(Remedy("run", stage="all"), home, [Run(experiment.name, folder, frozenset())])


def completed(remedy: Remedy, home: StorePath, runs: Sequence[Run], upstream: StorePath | None = None) -> Remedy:
    """Complete a run that has no home yet: with these homes, and the settings of the first of ``runs`` that still has them.

    Any other remedy stays as it is. Warn if the settings of all runs are lost.
    """
    if remedy.action != "run" or remedy.home:
        return remedy
    config = next(filter(None, (run.config for run in runs)), None)
    name = runs[0].experiment if runs and config is None else ""
    if name:
        _warn_of_lost(name, home / "runs" / name)
    return replace(remedy, home=str(home), config=str(config or ""), name=name, upstream=str(upstream or ""))


@cache
def _warn_of_lost(name: str, folder: StorePath) -> None:
    """Warn once for each experiment."""
    log.warning(
        "The settings of experiment '%s' in %s are lost: FILE in a suggested command is a placeholder for them", name, folder
    )


def entry_at(store: Store, entry_id: str, *, upstream: StorePath | None = None) -> Entry:
    """As ``find_entry``; if the manifest is damaged, the remedy of the error rebuilds or deletes the entry."""
    try:
        return find_entry(store, entry_id)
    except CorruptEntryError as error:
        home = store.root.parent
        # A run with this environment would find the entry in $ODKD_UPSTREAM.
        upstream = upstream or upstream_if_there(None, home)
        remedy = Users.of(home).remedy(entry_id, damage_of_manifest(error), upstream)
        raise CorruptEntryError(error.seen, remedy=remedy) from error


def order_of(entry_id: str) -> tuple[int, str]:
    """The rank of the entry's kind in the order of the stages, in which damaged entries can be repaired."""
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
