"""The command line of the store: ``python -m pipeline.cache ls``, and what else can be asked of entries and done to them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.exits import exit_status
from pipeline.experiments import RESOLVED, experiments
from pipeline.home import HOME_HELP, home_of
from pipeline.listing import described, facts, listed, rows_of, users_of
from pipeline.tables import plural, printable, size_text, table
from storage_schemas.entry import Store
from storage_schemas.errors import KINDS, CorruptEntryError, OdkdError, make_again
from storage_schemas.inventory import find_entry, find_place, take_inventory
from storage_schemas.manifest import differing_fields
from storage_schemas.verification import Verdict, verify

__all__ = ["build_parser", "main"]

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class _Answer:
    """What a command found: for ``--json``, for people, and the error that it ends with, if it does."""

    data: object
    text: str
    error: OdkdError | None = None


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", help=HOME_HELP)
    common.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.cache",
        description="What the store holds, whether it is whole, what may go, and how it comes to another machine. "
        "KEY is the key of an entry or its beginning, alone or as kind/key.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}.")

    ls = add("ls", "list the entries, one a line")
    ls.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}; all without it")
    show = add("show", "show one entry: what it was made from and by whom, what was measured, who uses it")
    show.add_argument("key", metavar="KEY")
    verify = add("verify", "read every file and compare size and sha256 with the manifest; without KEY of all entries")
    verify.add_argument("keys", nargs="*", metavar="KEY")
    diff = add("diff", "show the fields in which the recipes of two entries differ")
    diff.add_argument("keys", nargs=2, metavar="KEY")
    return parser


def _store(options: argparse.Namespace) -> tuple[Path, Store]:
    home = home_of(options.home, make=False)
    return home, Store(home / "store")


def _users(home: Path) -> dict[str, list[str]]:
    found = experiments(home)
    for experiment in found:
        if experiment.problem:
            log.warning("What experiment '%s' uses is not known: %s", experiment.name, experiment.problem)
    return users_of(found)


def _ls(options: argparse.Namespace) -> _Answer:
    home, store = _store(options)
    inventory = take_inventory(store)
    rows = rows_of(inventory, _users(home), options.kind)
    unreadable = {
        place: error for place, error in inventory.unreadable.items() if options.kind in (None, place.partition("/")[0])
    }
    for error in unreadable.values():
        log.warning("%s", error.seen)
    data = {
        "entries": [asdict(row) for row in rows],
        "unreadable": {place: error.seen for place, error in unreadable.items()},
    }
    return _Answer(data, f"{listed(rows, unreadable, now=datetime.now(UTC))} in {store.root}")


def _show(options: argparse.Namespace) -> _Answer:
    home, store = _store(options)
    entry = find_entry(store, find_place(store, options.key))
    known = facts(entry, take_inventory(store), _users(home).get(entry.place, ()))
    return _Answer(known, described(known))


def _diff(options: argparse.Namespace) -> _Answer:
    _, store = _store(options)
    first, second = (find_entry(store, find_place(store, key)) for key in options.keys)
    alike = first.manifest.kind == second.manifest.kind
    fields = differing_fields(first.manifest.recipe, second.manifest.recipe) if alike else []
    rows = [(name, *(json.dumps(value) for value in values)) for name, *values in fields]
    if first.place == second.place:
        text = f"{first.place} is one entry"
    elif not alike:
        text = f"{first.place} and {second.place} are of different kinds, whose recipes have nothing to do with each other"
    else:
        text = table(("field", first.key, second.key), rows)
    data = {"first": first.place, "second": second.place, "fields": {name: list(values) for name, *values in fields}}
    return _Answer(data, text)


def _verify(options: argparse.Namespace) -> _Answer:
    # It draws bars, and takes longer to import than a list takes to print.
    from stages.progress import progress

    home, store = _store(options)
    wanted = {find_place(store, key) for key in options.keys}
    inventory = take_inventory(store)
    inventory = inventory.only(wanted) if wanted else inventory
    total = sum(len(entry.manifest.files) for entry in inventory.entries.values())
    with progress("verify", total, "files", stream=sys.stderr) as bar:
        verdict = verify(store, inventory, advance=bar.advance)
    users = _users(home)
    damaged = {
        place: {"problems": problems, "next": _mend(home, place, users.get(place, []))}
        for place, problems in verdict.damaged.items()
    }
    data = {
        "entries": len(verdict.entries),
        "files": verdict.num_files,
        "bytes": verdict.size,
        "damaged": damaged,
        "unnamed": verdict.unnamed,
    }
    return _Answer(data, _verdict_text(verdict, damaged), _damage(verdict))


def _mend(home: Path, place: str, users: Sequence[str]) -> str:
    """The command that makes an entry again: that of an experiment which uses it, if any does."""
    if not users:
        return make_again(place.partition("/")[0], "the command that made it (no experiment uses it), with")
    config = shlex.quote(str(home / "runs" / users[0] / RESOLVED))
    return make_again(place.partition("/")[0], f"python -m pipeline.run --config {config} --home {shlex.quote(str(home))}")


def _verdict_text(verdict: Verdict, damaged: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for place, found in damaged.items():
        lines += [f"{place}: {printable(problem)}" for problem in found["problems"]]
        lines.append(f"  Next:    {found['next']}")
    for place, names in verdict.unnamed.items():
        lines += [f"{place}: {printable(name)} is not named by the manifest, and not used" for name in names]
    read = f"{plural(len(verdict.entries), 'entry')}, {plural(verdict.num_files, 'file')}, {size_text(verdict.size)}"
    bad = sum(map(len, verdict.damaged.values()))
    told = f"{plural(bad, 'damaged file')} in {plural(len(verdict.damaged), 'entry')}" if bad else "all as their manifests say"
    return "\n".join([*lines, f"{read}: {told}"])


def _damage(verdict: Verdict) -> OdkdError | None:
    if not verdict.damaged:
        return None
    first, *more = verdict.damaged
    told = f" and {plural(len(more), 'more entry')}" if more else ""
    return CorruptEntryError(f"{first}{told} cannot be used as it is", allowed="the files as the manifests describe them")


_COMMANDS: dict[str, Callable[[argparse.Namespace], _Answer]] = {
    "ls": _ls,
    "show": _show,
    "verify": _verify,
    "diff": _diff,
}


def _run(options: argparse.Namespace) -> None:
    answer = _COMMANDS[options.command](options)
    _print(json.dumps(answer.data, indent=1) if options.json else answer.text)
    if answer.error is not None:
        raise answer.error


def _print(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads it, such as head, has seen enough; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 for done, 2 for the user's mistake or damage, 1 for anything else."""
    return exit_status(
        lambda: _run(build_parser().parse_args(arguments)),
        interrupted="what is finished is kept; the same command looks again at what is left",
    )


if __name__ == "__main__":
    sys.exit(main())
