"""A writer of the store for a process of its own, which can be killed: ``python store_writer.py MODE FOLDER``.

- ``make`` makes the entry.
- ``hang`` finishes one part, prints a line and waits.
- ``kills`` starts a writer for each file operation that making the entry takes, kills it before that operation, and lets a
  second writer finish.
- ``replaces`` does the same where an entry exists that is to be replaced.
- ``race`` starts two writers at the same time, in several rounds.

Results are printed as lines of JSON.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath, parse_path
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.store_samples import FILES, RECIPE, write_file

_COUNTED = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
_ROUNDS = 6


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201


class _Messages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.INFO:
            _say(message=record.getMessage())


def _problems(entry: Entry) -> list[str]:
    return [f"{name} {problem}" for name, problem in entry.damaged().items()]


def _make(root: StorePath, *, pause: float = 0.0, replace: bool = False) -> tuple[Entry, list[str]]:
    """Return the entry and the files that this process wrote; with ``replace`` it replaces an existing entry."""
    wrote: list[str] = []
    store = Store(root)
    if replace and (old := store.find("targets", RECIPE)):
        store.replace(old)
    with store.draft("targets", RECIPE) as draft:
        if isinstance(draft, Entry):
            return draft, wrote
        done = draft.parts()
        for name in FILES:
            block = f"block-{name[-1]}"
            if block not in done:
                write_file(draft, name)
                wrote.append(name)
                time.sleep(pause)
            if name.startswith("bits") and block not in done:
                finish_part(draft.folder, block, [name])
        return draft.commit(FILES, measured={}), wrote


def _die_before(number: int, root: StorePath) -> None:
    """Kill this process before its ``number``-th operation on files below ``root``; syncing a file is one.

    In a bucket, kill it before its ``number``-th request that changes something.
    """
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("write_atomic", "link_as", "unlink") if isinstance(root, BucketPath) else ():
        setattr(BucketPath, name, _counted(getattr(BucketPath, name), count))

    def audit(event: str, args: tuple[Any, ...]) -> None:
        # shutil.rmtree removes files by names relative to an open folder.
        if event in _COUNTED and (str(args[0]).startswith(str(root)) or event in ("os.remove", "os.rmdir")):
            count()

    sync = os.fsync

    def counted_sync(fd: Any) -> None:  # noqa: ANN401 (a number or a stream)
        count()
        sync(fd)

    os.fsync = counted_sync
    sys.addaudithook(audit)


def _counted(method: Callable[..., None], count: Callable[[], None]) -> Callable[..., None]:
    def counted(*args: Any, **more: Any) -> None:  # noqa: ANN401 (passed on)
        count()
        method(*args, **more)

    return counted


def _forked(work: Callable[[], object]) -> Callable[[], bool]:
    """Run ``work`` in a forked process; the returned function waits for it and returns whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)

    def wait() -> bool:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    return wait


def _report(root: StorePath, *, replace: bool = False, **facts: object) -> None:
    entry, wrote = _make(root, replace=replace)
    files = set(entry.folder.parent.files_below())
    mine = {f"{entry.folder.name}/{name}" for name in entry.manifest.files} | {"manifest.json"}
    _say(payload=entry.manifest.payload, problems=_problems(entry), wrote=wrote, litter=sorted(files - mine), **facts)


def _warm_up() -> None:
    """Make an entry in this process, so that the forked ones find all modules imported."""
    with tempfile.TemporaryDirectory() as folder:
        _make(LocalPath(folder))
    # Imported, but not used before the forks: its threads would not survive one.
    importlib.import_module("obstore.store")


def _kills(root: StorePath, *, replace: bool = False) -> None:
    _warm_up()
    killed, number = True, 0
    while killed:
        number += 1
        home = root / str(number)

        if replace:
            _forked(partial(_make, home))()

        def interrupted(number: int = number, home: StorePath = home) -> None:
            _die_before(number, home)
            _make(home, replace=replace)

        killed = _forked(interrupted)()

        # In a process of its own, because the client of a bucket does not survive a fork.
        def again(home: StorePath = home, killed: bool = killed) -> None:
            found = Store(home).find("targets", RECIPE)
            before = None if found is None else {"payload": found.manifest.payload, "problems": _problems(found)}
            _report(home, replace=replace, killed=killed, before=before)

        _forked(again)()


def _race(root: StorePath) -> None:
    _warm_up()
    for number in range(_ROUNDS):
        home = root / str(number)
        start = time.monotonic() + 0.05

        def run(delay: float, home: StorePath = home, start: float = start) -> None:
            time.sleep(max(0.0, start + delay - time.monotonic()))
            entry, wrote = _make(home, pause=0.01)
            _say(round=home.name, folder=entry.folder.name, problems=_problems(entry), wrote=wrote)

        first, second = _forked(partial(run, 0.0)), _forked(partial(run, 0.003 * number))
        killed = [first(), second()]
        assert killed == [False, False]
        _forked(partial(_report, home, round=home.name))()


def _hang(root: StorePath) -> None:
    with Store(root).draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        for name in ("bits/c/0", "bits/c/1"):
            write_file(draft, name)
        finish_part(draft.folder, "block-0", ["bits/c/0"])
        _say(ready=True)
        time.sleep(60)


if __name__ == "__main__":
    modes: dict[str, Callable[[StorePath], None]] = {
        "kills": _kills,
        "replaces": partial(_kills, replace=True),
        "race": _race,
        "hang": _hang,
        "make": _report,
    }
    logging.basicConfig(level=logging.INFO, handlers=[_Messages()])
    modes[sys.argv[1]](parse_path(sys.argv[2]))
