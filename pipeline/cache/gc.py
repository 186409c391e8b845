"""``gc``: delete entries that no experiment uses, and leftovers of dead writers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import Any

from pipeline.cache.entries import Result, experiment_remedy, open_store, until_error
from pipeline.experiments import experiments
from pipeline.text import table
from stages.humanize import age_text, plural, size_text
from storage_schemas.errors import StoreError
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.gc import find_garbage, remove
from storage_schemas.store.store import Store

__all__ = ["gc"]

log = logging.getLogger("pipeline")


def gc(options: argparse.Namespace) -> Result:
    """Delete entries that no experiment uses and leftovers of dead writers, or only list them."""
    home, store = open_store(options)
    garbage, left = find_garbage(store, _used(home), min_age_seconds=options.min_age * 3600)
    for entry_id, reason in left.items():
        log.info("%s is left alone: %s", entry_id, reason)
    gone, error = garbage, None
    if not options.dry_run:
        # Read the experiments again for each item: a run may have started since.
        gone, error = until_error(garbage, lambda item: remove(store, item, lambda: item.entry_id in _used(home)))
    size, kept = sum(item.size for item in gone), _unfinished(home, store)
    removed = [{"entry": item.entry_id, "what": item.what, "size": item.size, "age_seconds": item.age_seconds} for item in gone]
    data = {"dry_run": options.dry_run, "removed": removed, "bytes": size, "left": left, "unfinished": kept}
    rows = [(item.entry_id, item.what, size_text(item.size), age_text(item.age_seconds)) for item in gone]
    shown = [table(("entry", "what", "size", "age"), rows, right=("size", "age")), ""] if rows else []
    total = f"{size_text(size)} {'to be freed' if options.dry_run else 'freed'} in {store.root}"
    return Result(data, "\n".join([*shown, *map(_kept_text, kept), total]), error)


def _unfinished(home: StorePath, store: Store) -> list[dict[str, Any]]:
    """The unfinished runs: the process of each, and the entries that it keeps and no finished run needs."""
    runs = [run for experiment in experiments(home) for run in experiment.runs]
    finished = frozenset().union(*(run.entry_ids for run in runs if run.notes is None))
    return [
        {
            "experiment": run.experiment,
            "notes": str(run.notes),
            "process": run.holder,
            "keeps": sorted(entry_id for entry_id in run.entry_ids - finished if (store.root / entry_id).is_dir()),
        }
        for run in runs
        if run.notes is not None
    ]


def _kept_text(kept: Mapping[str, Any]) -> str:
    who = f"by {kept['process']}" if kept["process"] else "that did not end"
    what = f"keeps {plural(len(kept['keeps']), 'entry')} that no finished run needs"
    end = "if that process is dead" if kept["process"] else "unless you run it again"
    return f"A run of '{kept['experiment']}' {who} {what}; {end}: {parse_path(kept['notes']).removal_command()}"


def _used(home: StorePath) -> frozenset[str]:
    """The ids of the entries that experiments use.

    Raises:
        StoreError: the entries of an experiment are unknown, so any entry may be in use.
    """
    found = experiments(home)
    for experiment in found:
        if experiment.problem:
            spoilt = experiment.spoilt or home / "runs" / experiment.name
            raise StoreError(
                f"The entries of experiment '{experiment.name}' are unknown: {experiment.problem}",
                allowed=f"experiments whose entries are known; if this one is not wanted: {spoilt.removal_command()}",
                remedy=experiment_remedy(home, experiment),
            )
    return frozenset().union(*(experiment.entry_ids for experiment in found))
