"""The commands that errors and reports suggest: a remedy, which is data, as the text that the user types."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from storage_schemas.errors import STAGE_OF, Remedy

__all__ = ["command", "run_command"]

_PLACEHOLDER = "FILE"
"""Stands in a command for a configuration that odkd does not know."""


def command(remedy: Remedy, typed: str = "") -> str:
    """The text for a remedy; ``typed`` is the run that the user started, without its stage, if it was one."""
    match remedy.action:
        case "shell" | "advice":
            return remedy.text + (f", or {_options(remedy).lstrip()}" if remedy.settings else "")
        case "repeat":
            return f"the same command{_with(_options(remedy))}" + (f": {remedy.text}" if remedy.text else "")
        case "run":
            return (f"{remedy.text}, or " if remedy.text else "") + _run(remedy, typed)
        case "settings":
            return "python -m pipeline.config"
        case "list":
            return _cache(remedy, "ls")
        case verb:
            return _cache(remedy, verb)


def run_command(*, config: str = "", name: str = "", home: str = "", upstream: str = "", settings: Sequence[str] = ()) -> str:
    """A run with these options, without its stage."""
    given = {"config": config, "name": name, "home": home, "upstream": upstream}
    options = [f"--{option} {shlex.quote(value)}" for option, value in given.items() if value]
    return " ".join(["python -m pipeline.run", *options, *(f"--set {shlex.quote(item)}" for item in settings)])


def _run(remedy: Remedy, typed: str) -> str:
    if remedy.home:
        config = remedy.config or _PLACEHOLDER
        typed = run_command(config=config, name=remedy.name, home=remedy.home, upstream=remedy.upstream)
    force = f" --force {remedy.entry_id}".rstrip() if remedy.force else ""
    more = "".join(f" --set {shlex.quote(item)}" for item in remedy.settings) + (" --dry-run" if remedy.dry_run else "")
    stage, kind = _stage(remedy), remedy.kind or remedy.entry_id.partition("/")[0]
    if not stage:
        return f"{typed or 'the same command with'}{force} and the stage that makes '{kind}'"
    return f"{typed or 'the same command with'} --stage {stage}{force}{more}"


def _stage(remedy: Remedy) -> str:
    """The stage to run; empty if this release has no stage that leaves such entries."""
    kind = remedy.kind or remedy.entry_id.partition("/")[0]
    if remedy.stage:
        return remedy.stage
    # The scores of teachers are of this kind and of another stage. All stages cannot be forced without a key.
    if kind == "evaluations" and (remedy.entry_id or not remedy.force):
        return "all"
    return STAGE_OF.get(kind, "")


def _cache(remedy: Remedy, verb: str) -> str:
    flags = [flag for flag, given in (("--used", remedy.used), ("--dry-run", remedy.dry_run)) if given]
    target = [each for each in (remedy.entry_id or remedy.kind,) if each]
    return " ".join(["python -m pipeline.cache", verb, *target, *flags]) + _options(remedy)


def _options(remedy: Remedy) -> str:
    given = {"home": remedy.home, "upstream": remedy.upstream}
    options = [f" --{option} {shlex.quote(value)}" for option, value in given.items() if value]
    return "".join([*options, *(f" --set {shlex.quote(item)}" for item in remedy.settings)])


def _with(options: str) -> str:
    return f" with{options}" if options else ""
