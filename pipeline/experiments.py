"""The folders of experiments, ``runs/<name>``: their files, and which entries of the store each experiment refers to.

A run that has ended names its entries in ``metrics.json``. One in progress, and one that was interrupted, names those that it
found and those that it was about to make in ``unfinished.json``. Nothing is worked out from the configuration: keys hold the
device and the library versions of the machines that run, and whoever asks may sit at another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from storage_schemas.atomic import write_atomic
from storage_schemas.places import Place, children

__all__ = ["METRICS", "RESOLVED", "UNFINISHED", "Experiment", "end", "experiments", "refer"]

RESOLVED, METRICS, UNFINISHED = "config.resolved.yaml", "metrics.json", "unfinished.json"


@dataclass(frozen=True)
class Experiment:
    """What a folder says: the places (``kind/key``) of the entries, or a ``problem`` where it says nothing sure."""

    name: str
    places: frozenset[str]
    problem: str = ""


def refer(run_dir: Place, places: Iterable[str]) -> None:
    """Note that a run in progress needs the entries of ``places``, there or not; what it noted before stays."""
    try:
        noted = _places(run_dir / UNFINISHED)
    except ValueError:
        noted = set()
    wanted = noted | set(places)
    if wanted != noted:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(run_dir / UNFINISHED, (json.dumps({"entries": sorted(wanted)}, indent=1) + "\n").encode())


def end(run_dir: Place) -> None:
    """Note that nothing is unfinished: from here on, the figures name the entries."""
    (run_dir / UNFINISHED).unlink(missing_ok=True)


def experiments(home: Place) -> list[Experiment]:
    """Every experiment of a home, by name."""
    return [_read(path) for path in children(home / "runs")[0]]


def _read(run_dir: Place) -> Experiment:
    try:
        # In this order: a run that ends meanwhile writes the figures first, and then takes the other file away.
        places = _places(run_dir / UNFINISHED) | _places(run_dir / METRICS)
    except ValueError as error:
        return Experiment(run_dir.name, frozenset(), str(error))
    if not places and (run_dir / RESOLVED).exists() and not (run_dir / METRICS).exists():
        return Experiment(run_dir.name, frozenset(), f"there are settings and neither {METRICS} nor {UNFINISHED}")
    return Experiment(run_dir.name, frozenset(places))


def _places(path: Place) -> set[str]:
    """What a file of the experiment names under ``entries``: places, or places by title; nothing if there is no such file.

    Raises:
        ValueError: it cannot be read, or names none.
    """
    try:
        entries = json.loads(path.read_bytes())["entries"]
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} names no entries ({error!r})") from error
    places = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise ValueError(f"{path.name} names no entries")
    return set(places)
