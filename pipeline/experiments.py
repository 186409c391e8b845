"""The folders of experiments, ``runs/<name>``: their files, and the entries that each experiment refers to.

A finished run names its entries in ``metrics.json``. Until then it names the entries that it has found and those that it is
about to make in a folder of its own, ``unfinished/<id>``, beside its settings: two runs of one name share no file, and an
interrupted run leaves what a repair needs. Nothing is derived from the configuration, because keys depend on the device and
on the library versions of the machine.

The notes of a run are deleted when it ends well, or, if it was killed, when a later run of the same name has noted all of
their entries. Other notes stay, and ``gc`` lists them: only the user knows whether that work is still wanted.

A run with missing inputs cannot know all entries of the experiment, so its figures name fewer. The entries that earlier
figures named are kept under ``earlier`` until a run has found everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    """A run of an experiment: its settings, and the ids of the entries that it left or needs."""

    experiment: str
    folder: StorePath
    """Where its settings are: that of the experiment, or as long as it has not ended well that of its notes."""
    entry_ids: frozenset[str]
    notes: StorePath | None = None
    """The folder of its notes, if it has not ended well."""
    earlier: frozenset[str] = frozenset()
    """The entry ids that only earlier figures name: missing inputs hide whether they are still needed."""
    decoder: str = ""
    """The decoder of its main figures; empty before a student is scored."""

    @property
    def config(self) -> StorePath | None:
        """The file of its settings; None if it is lost or empty."""
        return _settings_in(self.folder)

    @property
    def holder(self) -> str:
        """The process that may be at work; empty if it has ended. A process on another machine is never known to have ended."""
        watch = None if self.notes is None else LeaseWatch(self.notes / _LEASE)
        return "" if watch is None or watch.is_gone() else watch.holder()


@dataclass(frozen=True)
class Experiment:
    """The finished run and the unfinished runs of a folder; or the ``problem`` that hides its entries."""

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
    """Keep the notes of a run, which calls ``refer``, until it ends well: then the figures name its entries.

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
    """Note that the run ``run`` needs ``entry_ids``, existing or not, beside those that it has noted before."""
    path = run_dir / UNFINISHED / run / _ENTRIES
    noted = _noted(path)
    wanted = noted | set(entry_ids)
    if wanted != noted:
        path.parent.make_folders()
        path.write_atomic((json.dumps({"entries": sorted(wanted)}, indent=1) + "\n").encode())
    for other in _unfinished(run_dir):
        # Only after our own notes are written: the entries that both need are named at every moment.
        if other != path.parent and LeaseWatch(other / _LEASE).is_gone() and _is_covered(other, wanted):
            _drop(other)


def leave(run_dir: StorePath, run: str, settings_yaml: str, figures: Mapping[str, Any], *, is_whole: bool) -> int:
    """Write settings and figures, so that figures never lie beside the settings of another run.

    Unless the figures are ``is_whole`` (every entry of the experiment was looked for), the entries that earlier figures
    named stay named.

    Returns:
        The number of entries that only earlier figures named.

    Raises:
        OSError: the earlier figures cannot be read by this user.
    """
    config, metrics = run_dir / RESOLVED, run_dir / METRICS
    kept = set() if is_whole else _named_before(metrics) - set(figures["entries"].values())
    if not config.exists() or config.read_bytes() != settings_yaml.encode():
        if kept:
            # While there are no figures, the notes of this run name them.
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
            # The figures may be intact.
            raise error.__cause__ from error
        return set()


def _is_covered(notes: StorePath, entry_ids: set[str]) -> bool:
    try:
        noted = _noted(notes / _ENTRIES)
        # Notes without entries may be those of a run that begins just now.
        return bool(noted) and noted <= entry_ids
    except ValueError:
        return False


def _drop(notes: StorePath) -> None:
    # The entries first: if this is interrupted, the rest names no entries, and the next run deletes it.
    (notes / _ENTRIES).unlink(missing_ok=True)
    notes.remove_tree()
    with suppress(OSError):
        # Only if it is empty: other runs may have notes.
        notes.parent.rmdir()


def experiments(home: StorePath) -> list[Experiment]:
    """Every experiment of a home, by name."""
    return [_read(path) for path in (home / "runs").children()[0]]


def _settings_in(folder: StorePath) -> StorePath | None:
    """The file of the settings in the folder of an experiment or of notes; None if it is lost or empty."""
    path = folder / RESOLVED
    try:
        # With an empty file a run would use the defaults.
        return path if path.read_bytes().strip() else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError:
        # The command that reads it reports the error.
        return path


def _unfinished(run_dir: StorePath) -> list[StorePath]:
    """The folders of the notes of runs that have not ended well."""
    return [*(run_dir / UNFINISHED).children()[0]]


def _read(run_dir: StorePath) -> Experiment:
    # Notes before figures: a run that ends meanwhile writes its figures first, and then deletes its notes.
    found: list[Run] = []
    listed = None
    # A run that has just begun may have taken over notes that are gone: list again.
    while (again := _unfinished(run_dir)) != listed:
        listed, found = again, []
        for notes in listed:
            try:
                found.append(Run(run_dir.name, notes, frozenset(_noted(notes / _ENTRIES)), notes))
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


def _noted(path: StorePath) -> set[str]:
    """The entry ids that a file of the experiment names under ``entries``; errors as ``_named``."""
    return _named(path)[0]


def _named(path: StorePath) -> tuple[set[str], set[str]]:
    """The entry ids that a file names under ``entries`` and under ``earlier``; none without a file.

    In the file both are lists, or ids by title.

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
    if not all(isinstance(entry_ids, list) and all(map(_is_entry_id, entry_ids)) for entry_ids in found):
        raise ValueError(f"{path.name} names no entries")
    entries, earlier = map(set, found)
    return entries, earlier


def _is_entry_id(value: object) -> bool:
    return isinstance(value, str) and len(value.split("/")) == 2 and all(value.split("/"))
