"""Runs of the whole pipeline on a tiny drawn data set: in this process, or in processes that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pipeline.cache.__main__ import main as cache_main
from pipeline.run import main as run_main
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry, Store
from tests.support.store_samples import entries_of
from tests.support.warm_ray import Ran, run_here

__all__ = [
    "TINY", "arguments", "cache", "copy_without", "done", "entry_of", "kill_when", "metrics", "payloads", "run", "start",
]  # fmt: skip

# 160 images hold 328 instances: two blocks of targets, so that one can be finished and the other not.
TINY = {
    "data.embedded.train_images": 160,
    "data.embedded.val_images": 12,
    "crop.size_wh": [64, 64],
    "teachers.primary.network": "hrnet_w8_tiny",
    "teachers.primary.train.epochs": 1,
    # Few steps: a teacher trains with several threads, which wait for each other in every layer of a tiny network.
    "teachers.primary.train.batch_size": 64,
    "teachers.senior.train.epochs": 1,
    "teachers.senior.train.batch_size": 64,
    "views.count": 2,
    "distill.student.network": "hrnet_w8_tiny",
    "distill.epochs": 2,
    "distill.schedule": "primary_then_senior",
    "report.overlays": 1,
    "report.worst": 1,
}


def arguments(home: LocalPath | str, stage: str, *options: str, **changes: object) -> list[str]:
    """The command line of a run; in the names of ``changes`` two underscores stand for a dot."""
    settings = {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}
    overrides = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    return ["--stage", stage, "--home", str(home), *overrides, *options]


def run(home: LocalPath | str, stage: str, *options: str, **changes: object) -> Ran:
    """Run a stage in this process."""
    return run_here(run_main, *arguments(home, stage, *options, **changes))


def done(home: LocalPath | str, stage: str, *options: str, **changes: object) -> Ran:
    """Run a stage in this process, which must succeed."""
    ran = run(home, stage, *options, **changes)
    assert ran.status == 0, ran.out + ran.err
    return ran


def cache(home: LocalPath, *words: str) -> Ran:
    """Run a command of ``pipeline.cache`` in this process."""
    return run_here(cache_main, *words, "--home", str(home))


def start(home: LocalPath, stage: str, *, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Run a stage in a process of its own, in a session of its own: Ray's processes belong to it, and no others."""
    command = [sys.executable, "-m", "pipeline.run", *arguments(home, stage)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True, text=True, env=environment
    )


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """SIGKILL the process and everything that it started as soon as ``condition`` holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def metrics(home: LocalPath) -> dict[str, Any]:
    """The figures that the last run left."""
    found: dict[str, Any] = json.loads((home / "runs" / "demo" / "metrics.json").read_text())
    return found


def payloads(home: LocalPath, kind: str) -> dict[str, str]:
    """The hash of each entry's files, by key."""
    manifests = (home / "store" / kind).glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["payload"] for path in manifests}


def entry_of(home: LocalPath, title: str) -> Entry:
    """The entry that the figures name by ``title``."""
    kind, _, key = metrics(home)["entries"][title].partition("/")
    (found,) = [entry for entry in entries_of(Store(home / "store"), kind) if entry.key == key]
    return found


def copy_without(home: LocalPath, copy: LocalPath, *kinds: str) -> LocalPath:
    """A copy of a home that lacks the entries of some kinds."""
    shutil.copytree(home, copy, ignore=lambda folder, names: kinds if LocalPath(folder).name == "store" else ())
    return copy
