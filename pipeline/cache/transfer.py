"""``export`` and ``import``: copy entries from one home to another."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipeline.cache.advice import command
from pipeline.cache.lookup import Result, entry_at, experiment_run, open_store, run_with
from pipeline.experiments import Experiment, Run, experiments
from pipeline.home import upstream_of
from pipeline.text import table
from stages.humanize import plural, size_text
from storage_schemas.errors import ConfigError, MissingInputError, OdkdError, StoreError
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import entry_ids, find_entry_id
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.store import Store
from storage_schemas.store.transfer import Outcome, check_target, export_entries, import_entry, open_export

__all__ = ["export", "import_from"]

log = logging.getLogger("pipeline")

_OTHER_BITS = "Entries with other bits are valid too, made on another device or version: the store keeps its own."


def export(options: argparse.Namespace) -> Result:
    """Copy entries, or all those of an experiment, to a new home: a folder or a tar file."""
    # The progress bar takes longer to import than a list takes to print.
    from stages.progress import progress

    home, store = open_store(options)
    target = Path(options.target).absolute()
    if store.root.contains(target):
        raise StoreError(f"{target} is inside of the store", allowed="a folder or a .tar file elsewhere")
    check_target(target)
    # The upstream of the environment is needed, and must be reachable, only if an entry is missing.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    stores = _stores(home, store, options.wanted, upstream)
    entries = [
        entry_at(source.root.parent, source, entry_id, upstream=upstream if source == store else None)
        for entry_id, source in sorted(stores.items())
    ]
    num_files = sum(len(entry.manifest.files) for entry in entries)
    size = sum(entry.manifest.size for entry in entries)
    with progress("export", num_files, "files") as bar:
        export_entries(entries, target, advance=bar.advance)
    data = {"entries": [entry.entry_id for entry in entries], "files": num_files, "bytes": size, "target": str(target)}
    total = f"{plural(len(entries), 'entry')}, {plural(num_files, 'file')}, {size_text(size)}"
    return Result(data, f"{total} exported to {target}")


def _stores(home: StorePath, store: Store, texts: Sequence[str], upstream: StorePath | None) -> dict[str, Store]:
    """The ids of the wanted entries, each with its store: the own one, or the upstream one if that is needed."""
    own = dict.fromkeys(entry_ids(store), store)
    try:
        return _wanted(store, texts, own, [home])
    except (ConfigError, MissingInputError):
        upstream = upstream or upstream_of(None, home)
        if upstream is None:
            raise
    team = Store(upstream / "store")
    return _wanted(store, texts, dict.fromkeys(entry_ids(team), team) | own, [home, upstream])


def _wanted(store: Store, texts: Sequence[str], known: Mapping[str, Store], homes: Sequence[StorePath]) -> dict[str, Store]:
    # If two experiments have one name, the one of the first home is meant.
    named = {experiment.name: (home, experiment) for home in reversed(homes) for experiment in experiments(home)}
    upstream = Store(homes[1] / "store") if homes[1:] else None
    found: dict[str, Store] = {}
    for text in texts:
        if text in named:
            wanted = _entries_of(*named[text], known, homes)
        else:
            try:
                wanted = [find_entry_id(store, text, known=known, upstream=upstream)]
            except ConfigError as error:
                names = f"the name of an experiment: {', '.join(sorted(named)) or 'there is none yet'}"
                raise ConfigError(error.seen, allowed=f"{error.allowed}; or {names}", remedy=error.remedy) from error
        found |= {entry_id: known[entry_id] for entry_id in wanted}
    return found


def _entries_of(home: StorePath, experiment: Experiment, known: Collection[str], homes: Sequence[StorePath]) -> Collection[str]:
    """The entries that the figures of an experiment name.

    Raises:
        MissingInputError: some are missing, or it is not known which it needs.
    """
    # An unfinished run beside the figures may need more, which may be missing and is not wanted elsewhere.
    finished = [run for run in experiment.runs if run.notes is None]
    wanted = frozenset().union(*(run.entry_ids - run.earlier for run in finished))
    missing = sorted((wanted or experiment.entry_ids) - set(known))
    if experiment.problem:
        problem = experiment.problem
    elif missing:
        problem = f"{plural(len(missing), 'entry')} missing, such as {missing[0]}"
    elif any(run.earlier for run in finished):
        problem = "its last run lacked some inputs"
    elif not wanted:
        problem = "no run of it has finished"
    else:
        return wanted
    runs = experiment.runs or [Run(experiment.name, home / "runs" / experiment.name, frozenset())]
    upstream = homes[1] if homes[1:] and home == homes[0] else None
    raise MissingInputError(
        f"Experiment '{experiment.name}' cannot be exported: {problem}",
        allowed="a finished experiment, or keys of entries"
        + ("" if homes[1:] else "; or --upstream HOME, if a team's home has the entries"),
        remedy=replace(experiment_run(home, runs, upstream), stage="all"),
    )


def import_from(options: argparse.Namespace) -> Result:
    """Copy the entries of an export, or of any home, into the store; entries that exist stay."""
    from stages.progress import progress

    _, store = open_store(options, make=True)
    outcomes: list[tuple[Manifest, Outcome]] = []
    error: OdkdError | None = None
    try:
        with open_export(Path(options.source).absolute()) as source:
            manifests = source.manifests()
            with progress("import", sum(len(manifest.files) for manifest in manifests), "files") as bar:
                for manifest in manifests:
                    outcome = import_entry(store, source, manifest, advance=bar.advance, notify=log.info)
                    outcomes.append((manifest, outcome))
    except OdkdError as raised:
        if not outcomes:
            raise
        # The entries before the damaged one are complete: report them too.
        error = raised
    data = {name: [manifest.entry_id for manifest, outcome in outcomes if outcome == name] for name in get_args(Outcome)}
    return Result(data, _report(outcomes, store), error)


def _report(outcomes: Sequence[tuple[Manifest, Outcome]], store: Store) -> str:
    rows = [(manifest.entry_id, size_text(manifest.size), outcome) for manifest, outcome in outcomes]
    new = [manifest.size for manifest, outcome in outcomes if outcome == "imported"]
    lines = [table(("entry", "size", "outcome"), rows, right=("size",)), ""] if rows else []
    existing = f"; {len(rows) - len(new)} exist already" if len(rows) > len(new) else ""
    lines.append(f"{plural(len(new), 'entry')}, {size_text(sum(new))} imported into {store.root}{existing}")
    if any(outcome == "exists already, with other bits" for _, outcome in outcomes):
        lines.append(_OTHER_BITS)
    if new:
        use = command(replace(run_with(store.root.parent, None), stage="all"))
        lines.append(f"To use them (FILE is a placeholder for their configuration): {use}")
    return "\n".join(lines)
