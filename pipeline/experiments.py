"""The folders of experiments, ``runs/<name>``: their files, and which entries of the store each experiment refers to.

A run that has ended names its entries in ``metrics.json``. Until then it names those that it found, and those that it is about
to make, in a folder of its own, ``unfinished/<id>``, beside the settings that it was given: two runs of one name do not share
a file, and a run that is interrupted leaves what whoever mends its entries has to know. Nothing is worked out from the
configuration: keys hold the device and the library versions of the machines that run, and whoever asks may sit at another one.

Notes go when their run ends well; or, when their run is gone, as soon as a later run of that name has noted all that they
name. Others stay, and ``gc`` tells of them: nobody else knows whether that work is still wanted.

A run that cannot look for all entries of the experiment, since what they were made from is not there, leaves figures that name
fewer. What the figures before them named stays named then, under ``earlier``, until a run has found everything, and so knows
what is needed no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from storage_schemas.paths.path import StorePath
from storage_schemas.store.lease import Lease, LeaseWatch

__all__ = ["METRICS", "RESOLVED", "UNFINISHED", "Experiment", "Run", "experiments", "leave", "noting", "refer"]

RESOLVED, METRICS, UNFINISHED = "config.resolved.yaml", "metrics.json", "unfinished"
_ENTRIES, _LEASE = "entries.json", "lease"
_EARLIER = "earlier"


@dataclass(frozen=True)
class Run:
    """A run of an experiment: its settings, and the places (``kind/key``) of the entries that it left or needs."""

    experiment: str
    folder: StorePath
    """Where its settings are: that of the experiment, or as long as it has not ended well that of its notes."""
    entry_ids: frozenset[str]
    notes: StorePath | None = None
    """The folder of its notes, as long as it has not ended well."""
    earlier: frozenset[str] = frozenset()
    """Those of the places that its figures do not name: earlier ones did, and not all was there that tells which are needed."""
    decoder: str = ""
    """The decoder by which its figures and its report lead, once one was chosen."""

    @property
    def config(self) -> StorePath | None:
        """The file of its settings; None where that is lost, or emptied."""
        return _settings_in(self.folder)

    @property
    def holder(self) -> str:
        """The process that may be at work, or nothing; one that was killed on another machine is never known to be gone."""
        watch = None if self.notes is None else LeaseWatch(self.notes / _LEASE)
        return "" if watch is None or watch.is_gone() else watch.holder()


@dataclass(frozen=True)
class Experiment:
    """What a folder says: the run that left the figures, and those that are unfinished; or a ``problem`` where it is unsure."""

    name: str
    runs: tuple[Run, ...] = ()
    problem: str = ""
    spoilt: StorePath | None = None
    """The folder that the problem is in."""

    @property
    def entry_ids(self) -> frozenset[str]:
        """All entries that any of the runs refers to."""
        return frozenset().union(*(run.entry_ids for run in self.runs))


@contextmanager
def noting(run_dir: StorePath, run: str, settings_yaml: str) -> Iterator[None]:
    """Around a run that calls ``refer``: its notes go with its orderly end, when the figures name what it left.

    Raises:
        StoreError: a file is where a folder of the experiment belongs.
    """
    folder = run_dir / UNFINISHED / run
    folder.make_folders()
    with Lease(folder / _LEASE):
        (folder / RESOLVED).write_atomic(settings_yaml.encode())
        yield
    _drop(folder)


def refer(run_dir: StorePath, run: str, entry_ids: Iterable[str]) -> None:
    """Note that the run ``run``, in progress, needs the entries of ``entry_ids``, there or not; what it noted before stays."""
    path = run_dir / UNFINISHED / run / _ENTRIES
    noted = _places(path)
    wanted = noted | set(entry_ids)
    if wanted != noted:
        path.parent.make_folders()
        path.write_atomic((json.dumps({"entries": sorted(wanted)}, indent=1) + "\n").encode())
    for other in _unfinished(run_dir):
        # Only after our own are there: at no moment does nobody name what both need.
        if other != path.parent and LeaseWatch(other / _LEASE).is_gone() and _is_covered(other, wanted):
            _drop(other)


def leave(run_dir: StorePath, run: str, settings_yaml: str, figures: Mapping[str, Any], *, is_whole: bool) -> int:
    """Write settings and figures, so that at no moment there are figures beside settings that they are not of.

    Where these are not ``is_whole``, since not every entry of the experiment could be looked for, what earlier figures named
    stays named.

    Returns:
        How many entries that is, beside those that the new figures name.

    Raises:
        OSError: the earlier figures cannot be read by this user.
    """
    config, metrics = run_dir / RESOLVED, run_dir / METRICS
    kept = set() if is_whole else _named_before(metrics) - set(figures["entries"].values())
    if not config.exists() or config.read_bytes() != settings_yaml.encode():
        if kept:
            # As long as there are no figures the notes of this run name it.
            refer(run_dir, run, kept)
        metrics.unlink(missing_ok=True)
        config.write_atomic(settings_yaml.encode())
    more = {_EARLIER: sorted(kept)} if kept else {}
    metrics.write_atomic((json.dumps({**figures, **more}, indent=1) + "\n").encode())
    return len(kept)


def _named_before(metrics: StorePath) -> set[str]:
    try:
        return set().union(*_named(metrics))
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            # They may be whole.
            raise error.__cause__ from error
        return set()


def _is_covered(notes: StorePath, entry_ids: set[str]) -> bool:
    try:
        noted = _places(notes / _ENTRIES)
        # Notes without entries may be those of a run that begins just now.
        return bool(noted) and noted <= entry_ids
    except ValueError:
        return False


def _drop(notes: StorePath) -> None:
    # The entries first: whatever stays if this is interrupted says nothing, and goes with the next run.
    (notes / _ENTRIES).unlink(missing_ok=True)
    notes.remove_tree()
    notes.parent.remove_if_empty()


def experiments(home: StorePath) -> list[Experiment]:
    """Every experiment of a home, by name."""
    return [_read(path) for path in (home / "runs").children()[0]]


def _settings_in(folder: StorePath) -> StorePath | None:
    """The file of the settings in the folder of an experiment or of a run's notes; None where it is lost, or emptied."""
    path = folder / RESOLVED
    try:
        # Of an empty file a run would take the defaults.
        return path if path.read_bytes().strip() else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError:
        # Whoever is to use it is told.
        return path


def _unfinished(run_dir: StorePath) -> list[StorePath]:
    """The notes of runs that have not ended well, by their folders."""
    return [*(run_dir / UNFINISHED).children()[0]]


def _read(run_dir: StorePath) -> Experiment:
    # In this order: a run that ends meanwhile writes the figures first, and then takes its notes away.
    found: list[Run] = []
    listed = None
    # Notes that are gone now may have been taken over by a run that was not there yet: those are read too.
    while (again := _unfinished(run_dir)) != listed:
        listed, found = again, []
        for notes in listed:
            try:
                found.append(Run(run_dir.name, notes, frozenset(_places(notes / _ENTRIES)), notes))
            except ValueError as error:
                return Experiment(run_dir.name, problem=f"{UNFINISHED}/{notes.name}/{error}", spoilt=notes)
    try:
        finished, earlier = _named(run_dir / METRICS)
    except ValueError as error:
        return Experiment(run_dir.name, problem=str(error), spoilt=run_dir)
    if not (finished or found) and (run_dir / RESOLVED).exists() and not (run_dir / METRICS).exists():
        problem = f"there are settings, and neither {METRICS} nor notes in {UNFINISHED}"
        return Experiment(run_dir.name, problem=problem, spoilt=run_dir)
    entry_ids, decoder = frozenset(finished | earlier), _decoder(run_dir / METRICS)
    left = [Run(run_dir.name, run_dir, entry_ids, earlier=frozenset(earlier), decoder=decoder)] if entry_ids else []
    return Experiment(run_dir.name, (*left, *found))


def _decoder(metrics: StorePath) -> str:
    try:
        return str(json.loads(metrics.read_bytes())["evaluate"]["decoder"])
    except (OSError, ValueError, KeyError, TypeError):
        # No student was scored yet.
        return ""


def _places(path: StorePath) -> set[str]:
    """What a file of the experiment names under ``entries``, as ``_named``."""
    return _named(path)[0]


def _named(path: StorePath) -> tuple[set[str], set[str]]:
    """What a file of the experiment names under ``entries``, and under ``earlier`` if it has that; without a file nothing.

    Both are places, or places by title.

    Raises:
        ValueError: it cannot be read, or names no entries.
    """
    try:
        content = json.loads(path.read_bytes())
        both = [content["entries"], content.get(_EARLIER, [])]
    except (FileNotFoundError, NotADirectoryError):
        return set(), set()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} names no entries ({error!r})") from error
    found = [list(entry_ids.values()) if isinstance(entry_ids, dict) else entry_ids for entry_ids in both]
    if not all(isinstance(entry_ids, list) and all(map(_is_place, entry_ids)) for entry_ids in found):
        raise ValueError(f"{path.name} names no entries")
    entries, earlier = map(set, found)
    return entries, earlier


def _is_place(value: object) -> bool:
    return isinstance(value, str) and len(value.split("/")) == 2 and all(value.split("/"))
