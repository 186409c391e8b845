"""Who uses an entry, and the commands that follow from it: run, repair or drop."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from pipeline.cache.advice import command
from pipeline.experiments import Experiment, Run, experiments
from storage_schemas.errors import CorruptEntryError, OdkdError, Remedy
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import held
from storage_schemas.store.store import Entry, Store

__all__ = ["Users", "completed", "completing", "experiment_remedy", "experiment_run", "run_with"]

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Users:
    """The runs of a home by the ids of the entries that they refer to, and the experiments whose entries are unknown."""

    home: StorePath
    runs: Mapping[str, Sequence[Run]]
    """Finished runs first."""
    unknown: Sequence[Experiment]

    @staticmethod
    def of(home: StorePath) -> Users:
        """Read the experiments of a home; warn of those whose entries are unknown."""
        known = experiments(home)
        unknown = [experiment for experiment in known if experiment.problem]
        for experiment in unknown:
            find_out = command(experiment_remedy(home, experiment))
            seen = f"The entries of experiment '{experiment.name}' are unknown: {experiment.problem}"
            log.warning("%s; to find out: %s", seen, find_out)
        found: dict[str, list[Run]] = {}
        for run in sorted((run for experiment in known for run in experiment.runs), key=lambda run: run.notes is not None):
            for entry_id in run.entry_ids:
                found.setdefault(entry_id, []).append(run)
        return Users(home, found, unknown)

    def names(self, entry_id: str) -> list[str]:
        """The names of the experiments that use the entry."""
        return sorted({run.experiment for run in self.runs.get(entry_id, ())})

    def run(self, entry_id: str, upstream: StorePath | None = None) -> Remedy:
        """A run with the settings of one that uses the entry; its stage is still to be filled in."""
        return experiment_run(self.home, self.runs.get(entry_id, ()), upstream)

    def drop(self, entry_id: str, *, dry_run: bool = False) -> Remedy:
        """The remedy that deletes an entry."""
        return Remedy("drop", entry_id=entry_id, home=str(self.home), used=entry_id in self.runs, dry_run=dry_run)

    def remedy(
        self, entry_id: str, found: Entry | CorruptEntryError, *, unreadable: bool, upstream: StorePath | None
    ) -> Remedy:
        """The remedy for a damaged entry: repair or rebuild it, or drop it if no experiment uses it.

        ``found`` is the entry, or the error of its manifest; ``unreadable`` tells whether something of it cannot be read.
        """
        if unreadable:
            # The files may be intact: suggest no command that deletes them.
            return Remedy("verify", entry_id=entry_id, home=str(self.home))
        is_used = entry_id in self.runs
        if self.unknown and not is_used:
            # That experiment may use the entry.
            return experiment_remedy(self.home, self.unknown[0])
        if isinstance(found, Entry):
            if is_used or (upstream and found.twin(upstream)):
                return completed(found.remedy(upstream), self.run(entry_id, upstream))
        elif is_used and not (upstream and held(Store(upstream / "store"), [entry_id])):
            # Without a readable manifest the entry is missing: no file can be repaired, and a run rebuilds it without --force.
            return replace(self.run(entry_id, upstream), kind=entry_id.partition("/")[0])
        # No experiment needs it, or a run would use the upstream entry and leave this one.
        return self.drop(entry_id)


def experiment_remedy(home: StorePath, experiment: Experiment) -> Remedy:
    """The remedy after which the entries of an experiment with a ``problem`` are known again."""
    folder = home / "runs" / experiment.name
    if experiment.spoilt is not None and experiment.spoilt != folder:
        # Notes of an interrupted run, which no other run overwrites.
        return Remedy("shell", text=experiment.spoilt.removal_command())
    return replace(experiment_run(home, [Run(experiment.name, folder, frozenset())]), stage="all")


def experiment_run(home: StorePath, runs: Sequence[Run], upstream: StorePath | None = None) -> Remedy:
    """A run with the settings of the first of ``runs`` that still has them; warn if all settings are lost."""
    config = next((run.config for run in runs if run.config), None)
    name = runs[0].experiment if runs and config is None else ""
    if name:
        _warn_of_lost(name, home / "runs" / name)
    return replace(run_with(home, config, upstream), name=name)


@cache
def _warn_of_lost(name: str, folder: StorePath) -> None:
    """Warn once for each experiment."""
    log.warning(
        "The settings of experiment '%s' in %s are lost: FILE in a suggested command is a placeholder for them", name, folder
    )


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
