"""``export`` and ``import``: copy entries from one home to another."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from pipeline.cache.advice import command
from pipeline.cache.entries import Result, completed, entry_at, open_store, until_error
from pipeline.experiments import Experiment, Run, experiments
from pipeline.home import upstream_of
from pipeline.text import table
from stages.humanize import plural, size_text
from storage_schemas.errors import ConfigError, MissingInputError, Remedy, StoreError
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.inventory import entry_ids, find_entry_id
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.store import Store
from storage_schemas.store.transfer import Outcome, export_entries, import_entry, open_export

__all__ = ["export", "import_from"]

_OTHER_BITS = "Entries with other bits are valid too, made on another device or version: the store keeps its own."


def export(options: argparse.Namespace) -> Result:
    """Copy entries, or all those of an experiment, to a new home: a folder or a tar file."""
    # The progress bar takes longer to import than a list takes to print.
    from stages.progress import progress

    home, store = open_store(options)
    target = Path(options.target).absolute()
    if target.resolve().is_relative_to(store.root.mirror().resolve()):
        raise StoreError(f"{target} is inside of the store", allowed="a folder or a .tar file elsewhere")
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    try:
        stores = _wanted(options.wanted, [home])
    except (ConfigError, MissingInputError):
        # The upstream of the environment is needed, and must be reachable, only if something is missing.
        if (team := upstream or upstream_of(None, home)) is None:
            raise
        stores = _wanted(options.wanted, [home, team])
    entries = [
        entry_at(source, entry_id, upstream=upstream if source == store else None)
        for entry_id, source in sorted(stores.items())
    ]
    num_files = sum(len(entry.manifest.files) for entry in entries)
    size = sum(entry.manifest.size for entry in entries)
    with progress("export", num_files, "files") as bar:
        export_entries(entries, target, advance=bar.advance)
    data = {"entries": [entry.entry_id for entry in entries], "files": num_files, "bytes": size, "target": str(target)}
    total = f"{plural(len(entries), 'entry')}, {plural(num_files, 'file')}, {size_text(size)}"
    return Result(data, f"{total} exported to {target}")


def _wanted(texts: Sequence[str], homes: Sequence[StorePath]) -> dict[str, Store]:
    """The ids of the wanted entries, each with its store; of two homes the first goes before."""
    stores = [Store(home / "store") for home in homes]
    known = {entry_id: store for store in reversed(stores) for entry_id in entry_ids(store)}
    named = {experiment.name: (home, experiment) for home in reversed(homes) for experiment in experiments(home)}
    found: dict[str, Store] = {}
    for text in texts:
        if text in named:
            home, experiment = named[text]
            wanted = _entries_of(experiment, home, known, upstream=homes[-1] if home != homes[-1] else None)
        else:
            try:
                wanted = {find_entry_id(stores[0], text, known=known, upstream=stores[1] if stores[1:] else None)}
            except ConfigError as error:
                names = f"the name of an experiment: {', '.join(sorted(named)) or 'there is none yet'}"
                raise ConfigError(error.seen, allowed=f"{error.allowed}; or {names}", remedy=error.remedy) from error
        found |= {entry_id: known[entry_id] for entry_id in wanted}
    return found


def _entries_of(experiment: Experiment, home: StorePath, known: Mapping[str, Store], *, upstream: StorePath | None) -> set[str]:
    """The entries that the finished run of an experiment names.

    Raises:
        MissingInputError: some are missing, or it is unknown which it needs.
    """
    # An unfinished run may need more, which may be missing.
    finished = [run for run in experiment.runs if run.notes is None]
    wanted = set().union(*(run.entry_ids - run.earlier for run in finished))
    missing = sorted((wanted or experiment.entry_ids) - known.keys())
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
    raise MissingInputError(
        f"Experiment '{experiment.name}' cannot be exported: {problem}",
        allowed="a finished experiment, or keys of entries; or --upstream HOME, if that home has the missing entries",
        remedy=completed(Remedy("run", stage="all"), home, runs, upstream),
    )


def import_from(options: argparse.Namespace) -> Result:
    """Copy the entries of an export, or of any home, into the store; entries that exist stay."""
    from stages.progress import progress

    _, store = open_store(options, make=True)
    source = open_export(parse_path(options.source))
    manifests = source.manifests()
    outcomes: list[tuple[Manifest, Outcome]] = []
    with progress("import", sum(len(manifest.files) for manifest in manifests), "files") as bar:

        def work(manifest: Manifest) -> bool:
            outcomes.append((manifest, import_entry(store, source, manifest, advance=bar.advance)))
            return True

        # The entries before a damaged one are complete: they are reported too.
        _, error = until_error(manifests, work)
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
        use = command(Remedy("run", stage="all", home=str(store.root.parent)))
        lines.append(f"To use them (FILE is a placeholder for their configuration): {use}")
    return "\n".join(lines)
