"""``gc``: delete entries that no experiment uses, and leftovers of dead writers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cache.lookup import Result, experiment_remedy, open_store
from pipeline.experiments import experiments
from pipeline.text import table
from stages.humanize import age_text, plural, size_text
from storage_schemas.errors import OdkdError, StoreError
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.gc import Garbage, find_garbage, remove
from storage_schemas.store.store import Store

__all__ = ["gc"]

log = logging.getLogger("pipeline")


def gc(options: argparse.Namespace) -> Result:
    """Delete entries that no experiment uses and leftovers of dead writers, or only list them."""
    home, store = open_store(options)
    garbage, left = find_garbage(store, _used(home), min_age_seconds=options.min_age * 3600, tell=log.info)
    for entry_id, reason in left.items():
        log.info("%s is left alone: %s", entry_id, reason)
    gone, error = (garbage, None) if options.dry_run else _remove(home, store, garbage)
    size = sum(item.size for item in gone)
    kept = _unfinished(home, store)
    names = {"entry": "entry_id", "what": "what", "size": "size", "age_seconds": "age_seconds"}
    data = {
        "dry_run": options.dry_run,
        "removed": [{name: getattr(item, field) for name, field in names.items()} for item in gone],
        "bytes": size,
        "left": left,
        "unfinished": kept,
    }
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
    what = f"keeps {plural(len(kept['keeps']), 'entry')} that no finished run needs"
    drop = parse_path(kept["notes"]).removal_command()
    if kept["process"]:
        return f"A run of '{kept['experiment']}' by {kept['process']} {what}; if that process is dead and not to go on: {drop}"
    return f"A run of '{kept['experiment']}' that did not end {what}, until it is run again with its settings; or: {drop}"


def _remove(home: StorePath, store: Store, garbage: Sequence[Garbage]) -> tuple[list[Garbage], OdkdError | None]:
    """Delete the garbage; return the deleted items, and the error that stopped the work, if any."""
    gone: list[Garbage] = []
    for item in garbage:
        # Read the experiments again for each item: a run may have started since.
        def is_used(entry_id: str = item.entry_id) -> bool:
            return entry_id in _used(home)

        try:
            if remove(store, item, is_used):
                gone.append(item)
        except OdkdError as error:
            return gone, error
    return gone, None


def _used(home: StorePath) -> frozenset[str]:
    """The ids of the entries that experiments use.

    Raises:
        StoreError: the entries of an experiment are unknown, so any entry may be in use.
    """
    found = experiments(home)
    for experiment in found:
        if experiment.problem:
            folder = home / "runs" / experiment.name
            spoilt = experiment.spoilt or folder
            raise StoreError(
                f"What experiment '{experiment.name}' needs is not known: {experiment.problem}",
                allowed="experiments whose entries are known, because gc keeps these; "
                + (
                    "if that run is not wanted, none"
                    if spoilt != folder
                    else f"if it is not wanted, none: {spoilt.removal_command()}"
                ),
                remedy=experiment_remedy(home, experiment),
            )
    return frozenset().union(*(experiment.entry_ids for experiment in found))
