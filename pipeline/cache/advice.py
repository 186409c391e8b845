"""The commands that errors and reports suggest: a remedy, which is data, as the text that the user types."""

from __future__ import annotations

import shlex
from dataclasses import replace

from storage_schemas.errors import STAGE_OF, Remedy

__all__ = ["command", "run_command"]

_PLACEHOLDER = "FILE"
"""Stands in a command for a configuration that odkd does not know."""


def command(remedy: Remedy, typed: str = "") -> str:
    """The text for a remedy; ``typed`` is the run that the user started, without its stage, if it was one."""
    options = _options(remedy)
    match remedy.action:
        case "shell" | "advice":
            return remedy.text + (f", or{options}" if remedy.settings else "")
        case "repeat":
            return "the same command" + (f" with{options}" if options else "") + (f": {remedy.text}" if remedy.text else "")
        case "run":
            return (f"{remedy.text}, or " if remedy.text else "") + _run(remedy, typed or "the same command with")
        case "settings":
            return "python -m pipeline.config"
        case verb:
            flags = [flag for flag, given in (("--used", remedy.used), ("--dry-run", remedy.dry_run)) if given]
            words = ["python -m pipeline.cache", "ls" if verb == "list" else verb, remedy.entry_id or remedy.kind, *flags]
            return " ".join(filter(None, words)) + options


def run_command(given: Remedy) -> str:
    """A run with the options of ``given``, without its stage."""
    return f"python -m pipeline.run{_options(given)}"


def _run(remedy: Remedy, typed: str) -> str:
    more = _options(Remedy("run", settings=remedy.settings)) + (" --dry-run" if remedy.dry_run else "")
    if remedy.home:
        typed = run_command(replace(remedy, config=remedy.config or _PLACEHOLDER, settings=()))
    force = f" --force {remedy.entry_id}".rstrip() if remedy.force else ""
    kind = remedy.kind or remedy.entry_id.partition("/")[0]
    stage = remedy.stage or STAGE_OF.get(kind)
    # The scores of teachers are of this kind and of another stage. All stages cannot be forced without a key.
    if kind == "evaluations" and not remedy.stage and (remedy.entry_id or not remedy.force):
        stage = "all"
    return f"{typed} --stage {stage}{force}{more}" if stage else f"{typed}{force} and the stage that makes '{kind}'"


def _options(given: Remedy) -> str:
    values = {"config": given.config, "name": given.name, "home": given.home, "upstream": given.upstream}
    options = [*((name, value) for name, value in values.items() if value), *(("set", item) for item in given.settings)]
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in options)
