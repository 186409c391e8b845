"""All errors that a user can cause, in one place: each says what was seen, what is allowed and what to run next."""

from __future__ import annotations

import shlex

__all__ = [
    "KINDS",
    "REPAIRABLE",
    "THE_SAME",
    "ClusterError",
    "ConfigError",
    "CorruptEntryError",
    "DataError",
    "MissingInputError",
    "OdkdError",
    "SchemaVersionError",
    "StoreError",
    "TrainingError",
    "WeightsError",
    "cache_command",
    "look_again",
    "make_again",
    "repair_command",
]

_MADE_BY = {
    "instances": "prepare",
    "teachers": "teachers",
    "views": "targets",
    "targets": "targets",
    "students": "distill",
    "evaluations": "evaluate",
    "reports": "report",
}
"""The stage that leaves the entries of each kind."""

KINDS = tuple(_MADE_BY)
"""The kinds of entries, in the order in which stages leave them."""


REPAIRABLE = ("views", "targets")
"""The kinds whose entries are made block by block, so that a lost shard can be made alone."""


class OdkdError(Exception):
    """The user's mistake, or something only the user can mend; the command line prints it without a traceback and exits 2.

    ``seen`` names the value or the fact, ``allowed`` what would have been right, ``run`` the next command to type.
    """

    def __init__(self, seen: str, *, allowed: str = "", run: str = "") -> None:
        self.seen, self.allowed, self.run = seen, allowed, run
        lines = [seen]
        if allowed:
            lines.append(f"  Allowed: {allowed}")
        if run:
            lines.append(f"  Next:    {run}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the three parts, so that the error crosses process borders whole."""
        return (_rebuild, (type(self), self.seen, self.allowed, self.run))


def _rebuild(kind: type[OdkdError], seen: str, allowed: str, run: str) -> OdkdError:
    return kind(seen, allowed=allowed, run=run)


class ConfigError(OdkdError):
    """The configuration, a preset's name or a command-line option is wrong."""


class DataError(OdkdError):
    """The data set cannot be used: unreadable json, or more broken records than ``prepare.max_bad_fraction``."""


class WeightsError(OdkdError):
    """Weights that cannot be loaded, do not fit the network, or are not safe to open."""


class MissingInputError(OdkdError):
    """An entry that is needed and not there: another stage has not made it yet, or it is not there any more."""


class CorruptEntryError(OdkdError):
    """An entry of the store whose files do not match its manifest."""


class StoreError(OdkdError):
    """The home or the store cannot be used: relative, not writable or out of space."""


class SchemaVersionError(StoreError):
    """An entry that a release of another schema version wrote: this one does not read it, and leaves it alone."""


class ClusterError(OdkdError):
    """The Ray cluster cannot be reached or cannot do what was asked."""


class TrainingError(OdkdError):
    """Training that cannot go on: a loss that is not finite, or workers lost more often than allowed."""


def cache_command(words: str, home: object) -> str:
    """What to type to do something to entries of ``home``: ``words`` are a command of ``pipeline.cache`` with its arguments."""
    return f"python -m pipeline.cache {words} --home {shlex.quote(str(home))}"


def look_again(entry_id: str, home: object) -> str:
    """What to type next where files could not be read, and may be whole: nothing that removes them."""
    return cache_command(f"verify {entry_id}", home)


def repair_command(entry_id: str, home: object, upstream: object | None) -> str:
    """What to type to have the damaged files of an entry made again, or taken out of the home ``upstream``."""
    return cache_command(f"repair {entry_id}", home) + ("" if upstream is None else f" --upstream {shlex.quote(str(upstream))}")


THE_SAME = "the same command with"
"""Words for a command that makes entries, where whoever reads them has just typed it."""


def make_again(kind: str, command: str = THE_SAME, *, force: bool | str = True, stage: str | None = None) -> str:
    """What to type next where an entry of ``kind`` cannot be used as it is: the options that go behind ``command``.

    ``force`` is the place (``kind/key``) of the entry, where that is known: all others of the stage stay then. It is not needed
    where the entry counts as not there, or will: what is missing is made. ``stage`` is the one that made it, if that is known.
    """
    options = f" --force {force}" if isinstance(force, str) else " --force" if force else ""
    if kind not in _MADE_BY:
        return f"{command}{options} and the stage that makes '{kind}'"
    # Teachers are scored in their own stage; and all stages cannot be forced without a key.
    unknown = "all" if kind == "evaluations" and force is not True else _MADE_BY[kind]
    return f"{command} --stage {stage or unknown}{options}"
