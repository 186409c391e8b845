"""Who uses an entry, and the commands that follow from it: run, repair or drop."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from pipeline.cache.advice import command
from pipeline.experiments import Experiment, Run, experiments
from storage_schemas.errors import Remedy
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import entry_ids
from storage_schemas.store.store import Store
from storage_schemas.store.verify import Damage

__all__ = ["Users", "completed", "experiment_remedy"]

log = logging.getLogger("pipeline")


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
        found = defaultdict[str, list[Run]](list)
        runs = [run for experiment in self.experiments for run in experiment.runs]
        for run in sorted(runs, key=lambda run: run.notes is not None):
            for entry_id in run.entry_ids:
                found[entry_id].append(run)
        return dict(found)

    def names(self, entry_id: str) -> list[str]:
        """The names of the experiments that use the entry."""
        return sorted({run.experiment for run in self.runs.get(entry_id, ())})

    def completed(self, remedy: Remedy, entry_id: str, upstream: StorePath | None) -> Remedy:
        """As the function ``completed``, with the settings of a run that uses the entry."""
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
        elif is_used and not (upstream and entry_id in entry_ids(Store(upstream / "store"))):
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
    """A remedy that is a run without a home, with these homes and the settings of the first of ``runs`` that has them still.

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
