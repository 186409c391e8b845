"""What every command of ``pipeline.cache`` is given and gives back."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.experiments import Experiment, Run, experiments
from pipeline.home import home_of, make_home, upstream_if_there
from storage_schemas.errors import (
    KINDS,
    CorruptEntryError,
    OdkdError,
    cache_command,
    look_again,
    make_again,
)
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.inventory import find_entry, find_place, held
from storage_schemas.store.parts import is_unreadable
from storage_schemas.store.store import Entry, Store

__all__ = [
    "Answer",
    "command_of",
    "drop_of",
    "entry_at",
    "entry_named",
    "known_by",
    "maker_of",
    "mend_of",
    "names_of",
    "opened",
    "rank",
    "removal_of",
    "use_of",
    "users_of",
]

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Answer:
    """What a command found: for ``--json``, for people, and the error that it ends with, if it does."""

    data: object
    text: str
    error: OdkdError | None = None


def opened(options: argparse.Namespace, *, make: bool = False) -> tuple[StorePath, Store]:
    """The home and its store; one that is not there yet is an empty one, which is warned of."""
    home = home_of(options.home)
    # Whether there is such a bucket is told here, and not by whatever is first looked for in it.
    if make or isinstance(home, BucketPath):
        make_home(home)
    if not make and not (home / "store").is_dir():
        log.warning("There is no store in %s: nothing was made there yet, or another --home is meant", home)
    return home, Store(home / "store")


def entry_named(home: StorePath, store: Store, text: str, *, upstream: StorePath | None = None) -> Entry:
    """The entry that ``text`` means: a key or its beginning, alone or as ``kind/key``.

    Raises:
        ConfigError: it means none, or several.
        CorruptEntryError: its manifest cannot be read; the message names the whole command that makes it again.
        SchemaVersionError: it is of another schema version.
    """
    return entry_at(home, store, find_place(store, text), upstream=upstream)


def entry_at(home: StorePath, store: Store, entry_id: str, *, upstream: StorePath | None = None) -> Entry:
    """The entry at a place.

    Raises:
        MissingInputError: there is none (any more).
        CorruptEntryError: as ``entry_named``.
        SchemaVersionError: it is of another schema version.
    """
    try:
        return find_entry(store, entry_id)
    except CorruptEntryError as error:
        # What the environment names counts too: a run would find it there.
        upstream = upstream or upstream_if_there(None, home)
        again = mend_of(home, entry_id, error, [error.seen], users_of(home).get(entry_id, ()), upstream=upstream)
        raise CorruptEntryError(error.seen, run=again) from error


def rank(kind: str) -> int:
    """Where entries of a kind stand among others: in the order of the stages, which is that in which they can be mended."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def users_of(home: StorePath) -> dict[str, list[Run]]:
    """The runs of experiments that refer to each place, those that ended well first; what is not known is warned of."""
    found: dict[str, list[Run]] = {}
    for experiment in experiments(home):
        if experiment.problem:
            again = known_by(home, experiment)
            log.warning(
                "What experiment '%s' uses is not known: %s; to know it: %s", experiment.name, experiment.problem, again
            )
        for run in experiment.runs:
            for entry_id in run.entry_ids:
                found.setdefault(entry_id, []).append(run)
    return {entry_id: sorted(runs, key=lambda run: run.notes is not None) for entry_id, runs in found.items()}


def names_of(runs: Sequence[Run]) -> list[str]:
    """The experiments that some runs belong to, each once."""
    return sorted({run.experiment for run in runs})


def maker_of(home: StorePath, runs: Sequence[Run], upstream: StorePath | None = None) -> str:
    """The command that makes an entry that ``runs`` refer to, without the stage.

    FILE stands for settings that are not known: without runs, or where those of all are lost, which is warned of.
    """
    configs = (run.config for run in runs)
    return command_of(
        home, next((config for config in configs if config), None), upstream, name=runs[0].experiment if runs else ""
    )


def mend_of(
    home: StorePath,
    entry_id: str,
    found: Entry | CorruptEntryError,
    problems: Sequence[str],
    users: Sequence[Run],
    *,
    upstream: StorePath | None,
) -> str:
    """The command that mends an entry, makes it again as a whole, or, where no experiment uses it, takes it away.

    ``found`` is what there is of it, which may be what is wrong with its manifest; ``problems`` are those of its files.
    """
    if any(map(is_unreadable, problems)):
        return look_again(entry_id, home)
    unsure = [] if users else [experiment for experiment in experiments(home) if experiment.problem]
    if unsure:
        # It may be used by that one.
        return known_by(home, unsure[0])
    maker = maker_of(home, users, upstream)
    if isinstance(found, Entry):
        if users or (upstream and found.twin(upstream)):
            return found.mend(maker, upstream)
    elif users and not (upstream and held(Store(upstream / "store"), [entry_id])):
        # It counts as not there: nobody knows any more what its files should be, and none is put back.
        return make_again(entry_id.partition("/")[0], maker, force=False)
    # Nobody needs it, and nobody knows any more from what settings it was made; or a run takes what is upstream, and leaves it.
    return drop_of(home, entry_id, users)


def known_by(home: StorePath, experiment: Experiment) -> str:
    """The command after which it is known again what an experiment with a ``problem`` uses."""
    folder = home / "runs" / experiment.name
    if experiment.spoilt is not None and experiment.spoilt != folder:
        # Notes of a run that did not end, which no other run writes anew.
        return removal_of(experiment.spoilt)
    return f"{maker_of(home, [Run(experiment.name, folder, frozenset())])} --stage all"


def drop_of(home: StorePath, entry_id: str, users: Sequence[Run]) -> str:
    """What takes an entry out of the store."""
    return cache_command(f"drop {entry_id}{' --used' if users else ''}", home)


def use_of(home: StorePath) -> str:
    """What makes an experiment of this home use entries that are there, such as imported ones; FILE stands for its settings."""
    return f"{command_of(home, None)} --stage all"


def removal_of(path: StorePath) -> str:
    """What removes a folder, wherever it is."""
    tool = "rm -r"
    if not isinstance(path, Path):
        tool = "aws s3 rm --recursive" if path.bucket.startswith("s3:") else "gcloud storage rm --recursive"
    return f"{tool} {shlex.quote(str(path))}"


def command_of(home: StorePath, config: StorePath | None, upstream: StorePath | None = None, *, name: str = "") -> str:
    """What runs an experiment again with the settings of ``config``, without the stage.

    FILE stands for unknown ones. Where they are those of an experiment ``name``, and lost, that is warned of.
    """
    told = "" if upstream is None else f" --upstream {shlex.quote(str(upstream))}"
    lost = f" --name {shlex.quote(name)}" if name and config is None else ""
    if lost:
        _warn_of_lost(name, home / "runs" / name)
    return f"python -m pipeline.run --config {shlex.quote(str(config or 'FILE'))}{lost} --home {shlex.quote(str(home))}{told}"


@cache
def _warn_of_lost(name: str, folder: StorePath) -> None:
    """Once, however many commands name them."""
    log.warning("The settings of experiment '%s' in %s are lost: FILE stands for a file with them", name, folder)
