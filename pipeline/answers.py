"""What every command of ``pipeline.cache`` is given and gives back."""

from __future__ import annotations

import argparse
import logging
import shlex
from dataclasses import dataclass

from pipeline.experiments import RESOLVED, experiments
from pipeline.home import home_of, make_home
from storage_schemas.entry import Store
from storage_schemas.errors import OdkdError
from storage_schemas.objects import ObjectPath
from storage_schemas.places import Place

__all__ = ["Answer", "command_of", "opened", "users_of"]

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Answer:
    """What a command found: for ``--json``, for people, and the error that it ends with, if it does."""

    data: object
    text: str
    error: OdkdError | None = None


def opened(options: argparse.Namespace, *, make: bool = False) -> tuple[Place, Store]:
    """The home and its store."""
    home = home_of(options.home)
    # Whether there is such a bucket is told here, and not by whatever is first looked for in it.
    if make or isinstance(home, ObjectPath):
        make_home(home)
    return home, Store(home / "store")


def users_of(home: Place) -> dict[str, list[str]]:
    """The names of the experiments that refer to each place; one of which that is not known is warned of."""
    found: dict[str, list[str]] = {}
    for experiment in experiments(home):
        if experiment.problem:
            log.warning("What experiment '%s' uses is not known: %s", experiment.name, experiment.problem)
        for place in experiment.places:
            found.setdefault(place, []).append(experiment.name)
    return found


def command_of(home: Place, experiment: str) -> str:
    """What runs an experiment again with its settings, without the stage."""
    config = home / "runs" / experiment / RESOLVED
    return f"python -m pipeline.run --config {shlex.quote(str(config))} --home {shlex.quote(str(home))}"
