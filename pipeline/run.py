"""The command line: ``python -m pipeline.run --stage all``."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast, get_args

from pipeline import experiments
from pipeline.cache.advice import run_command
from pipeline.cli import answer_with, exit_status, leave
from pipeline.config.load import load_settings, preset_names, resolved_yaml
from pipeline.experiments import METRICS, RESOLVED
from pipeline.home import HOME_HELP, UPSTREAM_HELP, home_of, make_home, upstream_of
from stages.base import Context, StageName
from stages.humanize import plural
from storage_schemas.errors import ConfigError, Remedy, StoreError
from storage_schemas.paths.path import StorePath

__all__ = ["build_parser", "main"]

log = logging.getLogger("pipeline")


def build_parser() -> argparse.ArgumentParser:
    """The options; everything else is a setting."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.run",
        description="Distil a small pose network from two teachers, stage by stage; existing results are reused.",
    )
    parser.add_argument("--stage", required=True, choices=(*get_args(StageName), "all"), help="the stage to run, or all")
    parser.add_argument("--config", help=f"a preset ({', '.join(preset_names())}) or a YAML file (default: the embedded demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change a setting; can be given several times"
    )
    parser.add_argument("--name", help="the experiment's name: results go to HOME/runs/NAME (default: the configuration's)")
    parser.add_argument("--home", help=HOME_HELP)
    parser.add_argument("--upstream", metavar="HOME", help=UPSTREAM_HELP)
    parser.add_argument(
        "--force",
        action="extend",
        nargs="*",
        metavar="KEY",
        help="rebuild the existing entries of the stage; with keys (full keys, alone or as kind/key) only those entries",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what the run would make and why, and stop")
    return parser


def _repeatable(options: argparse.Namespace) -> str:
    """The command that was typed, without the stage; commands that errors suggest begin with it."""
    config, name, home, upstream = (getattr(options, name) or "" for name in ("config", "name", "home", "upstream"))
    typed = Remedy("run", config=config, name=name, home=home, upstream=upstream, settings=tuple(options.set))
    return run_command(typed)


def _run(options: argparse.Namespace) -> None:
    if options.name == "":
        raise ConfigError("--name is empty", allowed="the experiment's name, or no --name")
    overrides = [*options.set, *([] if options.name is None else [f"name={json.dumps(options.name)}"])]
    settings = load_settings(options.config, overrides)
    if options.force == [] and options.stage == "all":
        raise ConfigError(
            "--force with --stage all would rebuild everything",
            allowed="--force with one stage or with keys; to rebuild everything, use a new --home",
            remedy=Remedy("run", stage="distill", force=True),
        )
    home = home_of(options.home)
    upstream = upstream_of(options.upstream, home)
    # Importing Ray and torch takes seconds, so mistyped options are reported first.
    from pipeline import cluster, graph
    from pipeline import plan as dry_run
    from pipeline.costs import network_costs
    from stages.prepare.stage import instances_step
    from stages.report.stage import REPORT

    device = cluster.device(settings.cluster)
    context = Context(settings, home, device, command=_repeatable(options), upstream=upstream)
    stages = list(graph.STAGES) if options.stage == "all" else [cast("StageName", options.stage)]
    if options.dry_run:
        planned = dry_run.plan(context, stages, force=options.force)
        skeleton = instances_step(context, "train").recipe["skeleton"]
        costs = "\n".join(network_costs(settings, num_keypoints=len(skeleton["keypoints"])))
        answer_with("\n\n".join(part for part in (dry_run.render_plan(planned), costs, dry_run.LEGEND) if part))
        # A plan fails for the same reasons as the run.
        graph.check(context, stages, options.force)
        return

    # Every stage calls this; connect, and warn, only once.
    @cache
    def connect() -> None:
        cluster.join(context)

    graph.check(context, stages, options.force)
    # Only after all checks, so that a refused run creates no folder.
    make_home(home)
    context.run_dir.make_folders()
    for name in (RESOLVED, METRICS, REPORT):
        # Before any work, since the run could not write its results at the end.
        if (path := context.run_dir / name).is_dir():
            raise StoreError(
                f"{path} is a folder, and a file belongs there", allowed="a file, or nothing: move the folder away"
            )
    resolved = resolved_yaml(settings)
    with experiments.noting(context.run_dir, context.run, resolved):
        _work(context, stages, resolved, force=options.force, connect=connect)


def _work(
    context: Context, stages: Sequence[StageName], resolved: str, *, force: Sequence[str] | None, connect: Callable[[], None]
) -> None:
    """Make the missing entries of the stages, and write the figures."""
    from pipeline import cluster, graph
    from stages import distill
    from stages.report import stage as report
    from stages.report.summary import entries_of, findings

    # Include the stages before, whose entries these stages read.
    graph.refer(context, list(graph.STAGES)[: list(graph.STAGES).index(stages[-1]) + 1])
    # Check again: gc could have deleted entries until they were noted as needed.
    context.look_again()
    graph.check(context, stages)
    if not (context.run_dir / METRICS).exists():
        # With figures of an earlier run, the settings are written together with the new figures.
        (context.run_dir / RESOLVED).write_atomic(resolved.encode())
    try:
        for stage in stages:
            seconds = graph.make_stage(context, stage, force=force, connect=connect)
            if seconds is None:
                log.info("%s: all entries exist", stage)
            else:
                context.seconds[stage] = seconds
                log.info("%s: done in %.1f s", stage, seconds)
            context.warn(findings(context))
    finally:
        cluster.disconnect()
    report.publish(context)
    figures = _figures(context, resolved)
    is_whole = all(context.find(step) is not None for step in entries_of(context))
    kept = experiments.leave(context.run_dir, context.run, resolved, figures, is_whole=is_whole)
    if kept:
        name = context.settings.name
        log.info("%d entries of earlier runs of '%s' stay in use until all stages have run", kept, name)
    student = context.find(distill.student_step(context, "student"))
    if student is not None:
        # Verify the weights before printing their path.
        context.check(student)
    _log_result(context.run_dir, figures)


def _figures(context: Context, resolved: str) -> dict[str, Any]:
    """The content of ``metrics.json``: all figures of the experiment, and the seconds of each stage in this run or before."""
    from stages.report import stage as report
    from stages.report.summary import summary

    figures = summary(context)
    figures["entries"] |= {step.title: step.entry_id for step in report.steps(context) if context.find(step) is not None}
    known = {**_earlier_seconds(context.run_dir, resolved), **figures["seconds"]}
    figures["seconds"] = {stage: known[stage] for stage in get_args(StageName) if stage in known}
    return figures


def _earlier_seconds(run_dir: StorePath, resolved: str) -> dict[str, float]:
    """The seconds of each stage in earlier runs of the same settings; empty if the last run had others or left no figures."""
    if not _is_of(run_dir, resolved):
        return {}
    try:
        seconds = json.loads((run_dir / METRICS).read_bytes())["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return seconds if isinstance(seconds, dict) else {}


def _is_of(run_dir: StorePath, resolved: str) -> bool:
    """Whether the last run had these settings."""
    try:
        return (run_dir / RESOLVED).read_bytes() == resolved.encode()
    except OSError:
        return False


def _log_result(run_dir: StorePath, figures: dict[str, Any]) -> None:
    """Log the AP of all networks, and the paths of the results."""
    from stages.report.stage import REPORT

    if "evaluate" in figures:
        scores, teachers = figures["evaluate"], figures.get("teachers", {})
        rows = {name: teachers[role] for name, role in (("PT", "primary"), ("ST", "senior")) if role in teachers}
        rows["student"] = scores["student"]
        if "baseline" in scores:
            rows["baseline (without teachers)"] = scores["baseline"]
        log.info("AP: %s (%s)", ", ".join(f"{name} {row['AP']:.3f}" for name, row in rows.items()), scores["protocol"])
    if number := len(figures["warnings"]):
        log.info("%s: see above, or 'warnings' in %s", plural(number, "warning"), run_dir / METRICS)
    if "weights" in figures:
        log.info("weights of the student: %s", figures["weights"])
    for name in (REPORT, METRICS):
        if (run_dir / name).exists():
            log.info("%s", run_dir / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. The exit status is 0 for done, 2 for a user's mistake, 1 for anything else."""
    options = build_parser().parse_args(arguments)
    # On first use, matplotlib logs that it builds its font list.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    return exit_status(
        lambda: _run(options),
        interrupted="finished work is kept, and the same command continues from there",
        typed=_repeatable(options),
    )


if __name__ == "__main__":
    leave(main())
