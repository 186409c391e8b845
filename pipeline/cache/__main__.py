"""The command line of the store: ``python -m pipeline.cache ls``, and what else can be asked of entries and done to them."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence

from pipeline.cache import drop as removal
from pipeline.cache import inspect as listing
from pipeline.cache import transfer
from pipeline.cache import verify as upkeep
from pipeline.cache.lookup import Result
from pipeline.cli import USER_MISTAKE, answer_with, exit_status
from pipeline.home import HOME_HELP, UPSTREAM_HELP
from storage_schemas.errors import KINDS

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    # Before the command they are as good as behind it, where they must not write over what stands before.
    common, behind = (
        argparse.ArgumentParser(add_help=False, argument_default=default) for default in (None, argparse.SUPPRESS)
    )
    for each in (common, behind):
        each.add_argument("--home", help=HOME_HELP)
        each.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.cache",
        parents=[common],
        description="What the store holds, whether it is whole, what may go, and how it comes to another machine. "
        "KEY is the key of an entry or its beginning, alone or as kind/key.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[behind], help=text, description=f"{text[0].upper()}{text[1:]}.")

    ls = add("ls", "list the entries, one a line")
    ls.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}; all without it")
    show = add("show", "show one entry: what it was made from and by whom, what was measured, who uses it")
    show.add_argument("key", metavar="KEY")
    verify = add("verify", "read every file and compare size and sha256 with the manifest; without KEY of all entries")
    verify.add_argument("keys", nargs="*", metavar="KEY")
    verify.add_argument(
        "--sample",
        type=_people,
        metavar="N",
        help="run the teachers of targets again on N random people instead, and tell the share of bits that differ",
    )
    repair = add(
        "repair",
        "take damaged files out of the upstream home, make those of views or targets again, and nothing else of the entry",
    )
    repair.add_argument("key", metavar="KEY")
    diff = add("diff", "show the fields in which the recipes of two entries differ")
    diff.add_argument("keys", nargs=2, metavar="KEY")
    gc = add("gc", "remove entries that no experiment refers to, and what writers that died left behind")
    gc.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    gc.add_argument(
        "--min-age",
        type=_hours,
        default=24.0,
        metavar="HOURS",
        help="leave what is younger (default: 24; of files, not of work)",
    )
    drop = add(
        "drop", "remove entries, or what is left of them, so that they are made anew, and tell how, and what was made from them"
    )
    drop.add_argument("keys", nargs="+", metavar="KEY")
    drop.add_argument("--used", action="store_true", help="although an experiment uses them, or a run is about to")
    drop.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    export = add("export", "copy entries, or all those of an experiment, to a folder or a tar file")
    export.add_argument("wanted", nargs="+", metavar="KEY|RUN", help="an entry, or the name of an experiment")
    export.add_argument("target", metavar="DEST", help="a folder to be made, or a tar file if it ends in .tar")
    for reads_inputs in (verify, repair, drop, export):
        reads_inputs.add_argument("--upstream", metavar="HOME", help=UPSTREAM_HELP)
    take_in = add("import", "take the entries of an export into the store; what is there already stays")
    take_in.add_argument("source", metavar="SOURCE", help="the folder or tar file that export made")
    return parser


def _people(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of people from 1 up")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not hours >= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of hours from 0 up")
    return hours


def _repair(options: argparse.Namespace) -> Result:
    # Torch and Ray take seconds to import, which the other commands do without.
    from pipeline.cache.repair import repair

    return repair(options)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "ls": listing.ls,
    "show": listing.show,
    "verify": upkeep.verify,
    "repair": _repair,
    "diff": listing.diff,
    "gc": upkeep.gc,
    "drop": removal.drop,
    "export": transfer.export,
    "import": transfer.import_from,
}


def _run(options: argparse.Namespace) -> None:
    # The answer alone goes to standard output, so that a program can read it; progress is for people.
    with contextlib.redirect_stdout(sys.stderr):
        answer = _COMMANDS[options.command](options)
    answer_with(json.dumps(answer.data, indent=1) if options.json else answer.text)
    if answer.error is not None:
        raise answer.error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 for done, 2 for the user's mistake or damage, 1 for anything else."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        build_parser().print_help(sys.stderr)
        return USER_MISTAKE
    return exit_status(
        lambda: _run(build_parser().parse_args(given)),
        interrupted="what is finished is kept; the same command looks again at what is left",
    )


if __name__ == "__main__":
    sys.exit(main())
