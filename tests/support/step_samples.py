"""Runs whose entries exist without any work, for tests of plans, messages and figures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline import graph
from pipeline.config.load import load_settings
from stages.base import Context, InstancesStep, Stage, Step
from stages.prepare import stage as prepare
from stages.prepare.stage import INSTANCES
from storage_schemas.formats.instances import write_instances
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.buckets import local
from tests.support.instance_samples import make_instances

_HELD_OUT = 31
"""An image that is held out of training by the demo's ``prepare.holdout_fraction``."""


def make_context(home: Path, *overrides: str) -> Context:
    """A run of the demo's settings with ``overrides``, on the CPU."""
    return Context(load_settings(None, overrides), LocalPath(home), "cpu", command="odkd")


def leave_entry(context: Context, step: Step, **measured: Any) -> None:  # noqa: ANN401 (any figures of a stage)
    """Commit an entry of the step: a table of one instance on an image of the split's own, or else one empty file."""
    with context.store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        if isinstance(step, InstancesStep):
            write_instances(draft.work / INSTANCES, make_instances([_HELD_OUT], facts={_HELD_OUT: FileFacts(0, step.split)}))
            draft.commit([INSTANCES], measured=measured)
            return
        local(draft.folder / "file").write_bytes(b"")
        draft.commit(["file"], measured=measured)


def with_instances(context: Context) -> Context:
    """Commit the entries of both instance tables."""
    return _with(context, prepare)


def with_all(context: Context) -> Context:
    """Commit the entries of all stages."""
    return _with(context, *graph.STAGES.values())


def _with(context: Context, *stages: Stage) -> Context:
    for stage in stages:
        # A step may wait for another step of the same stage.
        while ready := [step for step in stage.steps(context) if not step.waits_for and context.find(step) is None]:
            for step in {(step.kind, step.key): step for step in ready}.values():
                leave_entry(context, step, content=hashlib.sha256(step.key.encode()).hexdigest())
    return context
