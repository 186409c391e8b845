"""``export`` and ``import``: entries on their way from one home to another."""

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
from storage_schemas.store.export_archive import check_target, export_entries
from storage_schemas.store.import_archive import Outcome, import_entry, opened_archive
from storage_schemas.store.inventory import entry_ids, find_place
from storage_schemas.store.manifest import Manifest
from storage_schemas.store.store import Store

__all__ = ["export", "take_in"]

log = logging.getLogger("pipeline")

_OTHER_BITS = "Of entries with other bits both are valid, made on different devices or versions: those in the store stay."


def export(options: argparse.Namespace) -> Result:
    """Copy entries, or all those of an experiment, to a folder or a tar file."""
    # It draws bars, and takes longer to import than a list takes to print.
    from stages.progress import progress

    home, store = open_store(options)
    target = Path(options.target).absolute()
    if store.root.contains(target):
        raise StoreError(f"{target} is inside of the store", allowed="a folder or a .tar file elsewhere")
    check_target(target)
    # One that is only in the environment is asked if something is missing, and need not be within reach otherwise.
    upstream = None if options.upstream is None else upstream_of(options.upstream, home)
    sources = _sources(home, store, options.wanted, upstream)
    entries = [
        entry_at(source.root.parent, source, entry_id, upstream=upstream if source == store else None)
        for entry_id, source in sorted(sources.items())
    ]
    num_files = sum(len(entry.manifest.files) for entry in entries)
    size = sum(entry.manifest.size for entry in entries)
    with progress("export", num_files, "files") as bar:
        export_entries(entries, target, advance=bar.advance)
    data = {"entries": [entry.entry_id for entry in entries], "files": num_files, "bytes": size, "target": str(target)}
    told = f"{plural(len(entries), 'entry')}, {plural(num_files, 'file')}, {size_text(size)}"
    return Result(data, f"{told} exported to {target}")


def _sources(home: StorePath, store: Store, texts: Sequence[str], upstream: StorePath | None) -> dict[str, Store]:
    """The places that ``texts`` name, each with the store that it is taken out of: one's own, or else a team's upstream it."""

    def wanted(there: Mapping[str, Store], homes: Sequence[StorePath]) -> dict[str, Store]:
        # Of two experiments of one name one's own, which is that of the first home.
        known = {
            experiment.name: (entry_id, experiment) for entry_id in reversed(homes) for experiment in experiments(entry_id)
        }
        named = {entry_id for text in texts for entry_id in _places(store, text, there, known, homes)}
        return {entry_id: there[entry_id] for entry_id in named}

    own = dict.fromkeys(entry_ids(store), store)
    try:
        return wanted(own, [home])
    except (ConfigError, MissingInputError):
        upstream = upstream or upstream_of(None, home)
        if upstream is None:
            raise
    team = Store(upstream / "store")
    return wanted(dict.fromkeys(entry_ids(team), team) | own, [home, upstream])


def _places(
    store: Store,
    text: str,
    there: Collection[str],
    known: Mapping[str, tuple[StorePath, Experiment]],
    homes: Sequence[StorePath],
) -> Collection[str]:
    """What ``text`` names: all entries of the experiment of that name, or else the one entry whose key begins so.

    ``there`` are the places that hold one, in the stores of ``homes``: one's own, and perhaps that upstream it. ``known`` are
    their experiments, each with the home that it is of.

    Raises:
        OdkdError: it names neither; or an experiment of which entries are missing, or are not known.
    """
    if text not in known:
        upstream = Store(homes[1] / "store") if homes[1:] else None
        try:
            return [find_place(store, text, known=there, upstream=upstream)]
        except ConfigError as error:
            names = f"the name of an experiment: {', '.join(sorted(known)) or 'there is none yet'}"
            raise ConfigError(error.seen, allowed=f"{error.allowed}; or {names}", remedy=error.remedy) from error
    home, experiment = known[text]
    # What its figures name. What a run beside that has not finished is not wanted elsewhere, and may not be there yet.
    ended = [run for run in experiment.runs if run.notes is None]
    wanted = frozenset().union(*(run.entry_ids - run.earlier for run in ended))
    missing = sorted((wanted or experiment.entry_ids) - set(there))
    is_partial = any(run.earlier for run in ended)
    if experiment.problem or missing or is_partial or not wanted:
        if missing:
            lacks = f"of its entries {len(missing)} are not there, such as {missing[0]}"
        else:
            lacks = "not all of it was there when it ran last" if is_partial else "no run of it has ended"
        upstream_it = homes[1] if homes[1:] and home == homes[0] else None
        raise MissingInputError(
            f"Experiment '{text}' cannot be exported: {experiment.problem or lacks}",
            allowed="an experiment that is finished, or the keys of entries"
            + ("" if homes[1:] else "; with --upstream HOME, where they lie in a team's home"),
            remedy=replace(
                experiment_run(home, experiment.runs or [Run(text, home / "runs" / text, frozenset())], upstream_it),
                stage="all",
            ),
        )
    return wanted


def take_in(options: argparse.Namespace) -> Result:
    """Take the entries of an export into the store; what is there already stays."""
    from stages.progress import progress

    _, store = open_store(options, make=True)
    outcomes: list[tuple[Manifest, Outcome]] = []
    error: OdkdError | None = None
    try:
        with opened_archive(Path(options.source).absolute()) as archive:
            total = sum(len(manifest.files) for manifest in archive.manifests)
            with progress("import", total, "files") as bar:
                for manifest in archive.manifests:
                    outcome = import_entry(store, archive, manifest, advance=bar.advance, tell=log.info)
                    outcomes.append((manifest, outcome))
    except OdkdError as raised:
        if not outcomes:
            raise
        # What was imported before is whole, and is told.
        error = raised
    data = {name: [manifest.entry_id for manifest, outcome in outcomes if outcome == name] for name in get_args(Outcome)}
    return Result(data, _told(outcomes, store), error)


def _told(outcomes: Sequence[tuple[Manifest, Outcome]], store: Store) -> str:
    rows = [(manifest.entry_id, size_text(manifest.size), outcome) for manifest, outcome in outcomes]
    new = [manifest.size for manifest, outcome in outcomes if outcome == "imported"]
    there = len(outcomes) - len(new)
    total = f"{plural(len(new), 'entry')}, {size_text(sum(new))} imported into {store.root}"
    more = [_OTHER_BITS] if any(outcome == "there already, with other bits" for _, outcome in outcomes) else []
    if new:
        more.append(
            f"To use them, with their settings as FILE: {command(replace(run_with(store.root.parent, None), stage='all'))}"
        )
    shown = [table(("entry", "size", "outcome"), rows, right=("size",)), ""] if rows else []
    return "\n".join([*shown, total + (f"; {there} there already" if there else ""), *more])
