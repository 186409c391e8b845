"""The command line of the configuration: ``python -m pipeline.config`` prints every setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.cli import answer_with, exit_status
from pipeline.config.load import load_settings, preset_names, resolved_yaml

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the resolved configuration: ``python -m pipeline.config --config my.yaml``."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.config", description="Print the resolved configuration.")
    parser.add_argument("--config", help=f"a preset ({', '.join(preset_names())}) or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a setting")
    options = parser.parse_args(arguments)
    return exit_status(
        lambda: answer_with(resolved_yaml(load_settings(options.config, options.set)).rstrip()),
        interrupted="nothing was changed",
    )


if __name__ == "__main__":
    sys.exit(main())
