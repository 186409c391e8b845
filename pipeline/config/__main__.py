"""The command line of the configuration: ``python -m pipeline.config`` prints every setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.cli import answer_with
from pipeline.config.load import load_settings, preset_names, resolved_yaml
from storage_schemas.errors import ConfigError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the resolved configuration: ``python -m pipeline.config --config my.yaml``."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.config", description="Print the resolved configuration.")
    parser.add_argument("--config", help=f"a preset ({', '.join(preset_names())}) or a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a setting")
    options = parser.parse_args(arguments)
    try:
        answer_with(resolved_yaml(load_settings(options.config, options.set)).rstrip())
    except ConfigError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
