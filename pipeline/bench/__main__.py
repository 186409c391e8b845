"""The command line: ``python -m pipeline.bench cache``."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.bench.output import FIGURES
from pipeline.bench.scale import PARTS
from pipeline.cli import exit_status
from pipeline.home import HOME_HELP, home_of
from storage_schemas.errors import ConfigError, Remedy, StoreError
from storage_schemas.paths.local import LocalPath

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The benchmarks, each with its options."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench", description="Measure on this machine.")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    cache = benches.add_parser(
        "cache",
        help="the cache of teachers' targets: its size, its speed, and what it saves",
        description="Measure the cache of teachers' targets, on data drawn for it. It needs a machine that does nothing else, "
        "half an hour or more on two cores (most of it for steps and filling), and about 1 GB of room for temporary files "
        "(TMPDIR), which are removed at the end.",
    )
    cache.add_argument("--part", choices=PARTS, help="measure this part alone (default: all, one after the other)")
    cache.add_argument("--quick", action="store_true", help="a smoke run of small sizes: shows that it works, measures nothing")
    cache.add_argument(
        "--entry", nargs="+", default=[], metavar="KEY", help="targets to weigh in part sizes, and judge (default: drawn)"
    )
    cache.add_argument(
        "--annotations",
        nargs=2,
        metavar=("JSON", "FOLDER"),
        help="COCO annotations and their images, to read in part crops (default: drawn)",
    )
    cache.add_argument("--home", help=f"the home of these entries: {HOME_HELP}")
    cache.add_argument(
        "--out", default="bench-cache", metavar="DIR", help="a folder for the figures of this run (default: %(default)s)"
    )
    return parser


def _cache(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    if options.entry and options.part not in (None, "sizes"):
        raise ConfigError(f"--entry is for part sizes, but --part is {options.part}", allowed="--part sizes, or all")
    if options.annotations and options.part not in (None, "crops"):
        raise ConfigError(f"--annotations is for part crops, but --part is {options.part}", allowed="--part crops, or all")
    if options.home is not None and not options.entry:
        raise ConfigError("--home is given without --entry", allowed="--home together with --entry KEY")
    # Importing torch takes seconds: report mistyped options before.
    from pipeline.bench.cache import run_cache_bench
    from pipeline.bench.crops import find_photographs
    from pipeline.bench.sizes import find_entries

    entries = find_entries(home_of(options.home), options.entry) if options.entry else None
    photographs = find_photographs(*map(LocalPath, options.annotations)) if options.annotations else None
    out = Path(options.out)
    _make_folder(out)
    parts = [options.part] if options.part else PARTS
    run_cache_bench(parts, quick=options.quick, entries=entries, photographs=photographs, out=out, arguments=arguments)


def _make_folder(out: Path) -> None:
    """Create the folder for figures, and check before any measurement that it is writable and has no figures yet."""
    if (out / FIGURES).exists():
        raise StoreError(
            f"{out} holds the {FIGURES} of an earlier run",
            allowed="a folder without one: figures are not written over",
            remedy=Remedy("advice", text=f"the same command with --out DIR, or rm {shlex.quote(str(out / FIGURES))}"),
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Permissions are not enough: a file system can be read-only.
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise StoreError(
            f"The folder {out} cannot be written: {error.strerror}", allowed="--out DIR that may be written"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 for done, whatever was found, 2 for the user's mistake, 1 for the rest."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_status(
        lambda: _cache(build_parser().parse_args(given), given), interrupted="figures of the parts that were done are kept"
    )


if __name__ == "__main__":
    sys.exit(main())
