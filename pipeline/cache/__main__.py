"""The command line of the store: ``python -m pipeline.cache ls`` and the other commands on entries."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence

from pipeline.cache import transfer
from pipeline.cache.drop import drop
from pipeline.cache.entries import Result
from pipeline.cache.gc import gc
from pipeline.cache.inspect import diff, ls, show
from pipeline.cache.verify import verify
from pipeline.cli import USER_MISTAKE, answer_with, exit_status
from pipeline.home import HOME_HELP, UPSTREAM_HELP
from storage_schemas.errors import KINDS

__all__ = ["build_parser", "main"]

Work = Callable[[argparse.Namespace], Result]


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    # These options stand before or behind the command; behind it, a default must not overwrite a value given before.
    common, behind = (
        argparse.ArgumentParser(add_help=False, argument_default=default) for default in (None, argparse.SUPPRESS)
    )
    for each in (common, behind):
        each.add_argument("--home", help=HOME_HELP)
        each.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.cache",
        parents=[common],
        description="List, check, repair, delete and copy the entries of the store. "
        "KEY is the key of an entry or its beginning, alone or as kind/key.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, work: Work, text: str, *, keys: int | str = 0) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[behind], help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(work=work)
        if keys:
            added.add_argument("keys", nargs=keys, metavar="KEY")
        return added

    ls_parser = add("ls", ls, "list the entries, one a line")
    ls_parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}; default: all")
    add("show", show, "show one entry: its inputs, its recipe, what was measured, who uses it", keys=1)
    text = "read every file and compare size and sha256 with the manifest; without KEY for all entries"
    verify_parser = add("verify", verify, text, keys="*")
    text = "instead, run the teachers of targets again on N random instances and print the share of bits that differ"
    verify_parser.add_argument("--sample", type=_at_least(1, int, "instances"), metavar="N", help=text)
    text = "replace damaged files: copy them from the upstream home, or recompute those of views and targets"
    repair_parser = add("repair", _repair, text, keys=1)
    add("diff", diff, "show the fields in which the recipes of two entries differ", keys=2)
    gc_parser = add("gc", gc, "delete entries that no experiment uses, and leftovers of dead writers")
    text = "keep files that are younger (default: 24)"
    gc_parser.add_argument("--min-age", type=_at_least(0, float, "hours"), default=24.0, metavar="HOURS", help=text)
    text = "delete entries, even damaged ones; print how to rebuild them and what depends on them"
    drop_parser = add("drop", drop, text, keys="+")
    drop_parser.add_argument("--used", action="store_true", help="even if an experiment or a run needs them")
    for deletes in (gc_parser, drop_parser):
        deletes.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    text = "copy entries, or all those of an experiment, to a new home: a folder or a tar file"
    export_parser = add("export", transfer.export, text)
    export_parser.add_argument("wanted", nargs="+", metavar="KEY|RUN", help="an entry, or the name of an experiment")
    export_parser.add_argument("target", metavar="DEST", help="a new folder, or a tar file if it ends in .tar")
    for reads_inputs in (verify_parser, repair_parser, drop_parser, export_parser):
        reads_inputs.add_argument("--upstream", metavar="HOME", help=UPSTREAM_HELP)
    text = "copy the entries of an export, or of a home, into the store; entries that exist stay"
    import_parser = add("import", transfer.import_from, text)
    import_parser.add_argument("source", metavar="SOURCE", help="the folder or tar file of an export, or a home")
    return parser


def _at_least(least: int, number: type[int] | type[float], unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if (value := number(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of {unit} from {least} up")

    return read


def _repair(options: argparse.Namespace) -> Result:
    # Torch and Ray take seconds to import, which the other commands do without.
    from pipeline.cache.repair import repair

    return repair(options)


def _run(options: argparse.Namespace) -> None:
    # Only the result goes to standard output, so that a program can read it.
    with contextlib.redirect_stdout(sys.stderr):
        answer = options.work(options)
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
        interrupted="the finished part is kept; the same command continues",
    )


if __name__ == "__main__":
    sys.exit(main())
