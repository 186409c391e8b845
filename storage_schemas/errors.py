"""The errors that a user can cause: each has the value seen, what is allowed, and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

__all__ = [
    "KINDS",
    "REPAIRABLE",
    "STAGE_OF",
    "Action",
    "ClusterError",
    "ConfigError",
    "CorruptEntryError",
    "DataError",
    "MissingInputError",
    "OdkdError",
    "Remedy",
    "SchemaVersionError",
    "StoreError",
    "TrainingError",
    "UnreadableEntryError",
    "WeightsError",
]

STAGE_OF = {
    "instances": "prepare",
    "teachers": "teachers",
    "views": "targets",
    "targets": "targets",
    "students": "distill",
    "evaluations": "evaluate",
    "reports": "report",
}
"""The stage that leaves the entries of each kind."""

KINDS = tuple(STAGE_OF)
"""The kinds of entries, in the order in which stages leave them."""


REPAIRABLE = ("views", "targets")
"""The kinds whose entries are built in blocks, so that a lost shard can be recomputed alone."""


Action = Literal["repeat", "run", "list", "verify", "repair", "drop", "settings", "shell", "advice"]
"""What a user can do next: repeat the command, run a stage, use a cache command, type a shell command, or follow advice."""


@dataclass(frozen=True)
class Remedy:
    """What the user can do next, as data; the command line writes it as a command.

    ``run`` needs a ``stage``, or a ``kind`` or ``entry_id`` from which the stage follows. With a ``home`` it is a complete
    command with that home, ``config`` and ``upstream``; without one it repeats the options that the user typed.
    """

    action: Action
    text: str = ""
    """The command of ``shell``, the sentence of ``advice``; for other actions, something to do instead."""
    kind: str = ""
    entry_id: str = ""
    stage: str = ""
    """For ``run``: the stage to run, if it is not the one that leaves entries of this kind."""
    force: bool = False
    """For ``run``: whether to rebuild what exists: the entry, or without ``entry_id`` all entries of the stage."""
    settings: tuple[str, ...] = ()
    """Settings to override, such as ``cluster.device=auto``."""
    home: str = ""
    upstream: str = ""
    config: str = ""
    name: str = ""
    """For ``run`` with a home: the name of the experiment, if its settings are lost."""
    used: bool = False
    """For ``drop``: whether an experiment uses the entry."""
    dry_run: bool = False


class OdkdError(Exception):
    """A mistake that the user can correct; the command line prints it without a traceback and exits with status 2.

    ``seen`` names the value or the fact, ``allowed`` what is expected instead, ``remedy`` what to do next.
    """

    def __init__(self, seen: str, *, allowed: str = "", remedy: Remedy | None = None) -> None:
        self.seen, self.allowed, self.remedy = seen, allowed, remedy
        super().__init__(f"{seen}\n  Allowed: {allowed}" if allowed else seen)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the parts: Ray pickles errors between processes."""
        return partial(type(self), allowed=self.allowed, remedy=self.remedy), (self.seen,)


class ConfigError(OdkdError):
    """The configuration, a preset's name or a command-line option is wrong."""


class DataError(OdkdError):
    """The dataset cannot be used: unreadable JSON, or more broken records than ``prepare.max_bad_fraction``."""


class WeightsError(OdkdError):
    """Weights that cannot be loaded, do not fit the network, or are not safe to open."""


class MissingInputError(OdkdError):
    """A required entry is missing: its stage has not run yet, or it was deleted."""


class CorruptEntryError(OdkdError):
    """An entry of the store whose files do not match its manifest."""


class UnreadableEntryError(CorruptEntryError):
    """A manifest or a file that cannot be read (wrong owner, failing disk) and may still be intact."""


class StoreError(OdkdError):
    """The home or the store cannot be used: relative, not writable or out of space."""


class SchemaVersionError(StoreError):
    """An entry of another schema version, which this release neither reads nor changes."""


class ClusterError(OdkdError):
    """The Ray cluster cannot be reached or cannot do what was asked."""


class TrainingError(OdkdError):
    """Training cannot continue: the loss is not finite, or more workers were lost than allowed."""
