"""A Ray that is started once for many tests, and commands that run on it in this process."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from pipeline import cluster

__all__ = ["Ran", "run_here", "warm_ray"]


@dataclass(frozen=True)
class Ran:
    """What a command returned and printed, and whether it used the cluster."""

    status: int
    out: str
    err: str
    used_cluster: bool


@contextmanager
def warm_ray(of_workers: Mapping[str, str]) -> Iterator[None]:
    """Start Ray as a run does, and keep it until the block ends, whichever command would stop it.

    A start takes 3 to 5 s, and each worker process 5 s of imports more. ``of_workers`` is added to the environment of the
    workers, but not of this process.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        # Ray gives workers a low priority: beside other work on the machine the tests would wait for them for minutes.
        environment.setenv("RAY_worker_niceness", "0")
        with pytest.MonkeyPatch.context() as start:
            # Else Ray ends idle workers during each training, and the next task waits for the imports of a new one.
            for name, value in {"RAY_num_workers_soft_limit": "8", **of_workers}.items():
                start.setenv(name, value)
            cluster.connect()
        stop = cluster.disconnect
        environment.setattr(cluster, "disconnect", lambda: None)
        try:
            yield
        finally:
            stop()


def run_here(main: Callable[[Sequence[str]], int], *words: str) -> Ran:
    """Run the command ``main`` in this process; warnings are no errors there, as they are none for a user."""
    out, err = io.StringIO(), io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(err)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    checked = patch.object(cluster, "check_home", wraps=cluster.check_home)
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(), checked as check_home:
            warnings.simplefilter("ignore")
            status = main(words)
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    return Ran(status, out.getvalue(), err.getvalue(), check_home.called)
