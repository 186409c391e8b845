"""How a command ends: the result on standard output, messages on standard error, and the exit status."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from pipeline.cache.advice import command
from storage_schemas.errors import OdkdError

__all__ = ["DONE", "FAILED", "USER_MISTAKE", "answer_with", "exit_status", "leave", "own_term_handler", "shown"]

DONE, FAILED, USER_MISTAKE = 0, 1, 2
_AGAIN = "Finished work is kept. Fix the problem, then repeat the command: it continues."
_STORAGE_FAULTS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
)


class _Messages(logging.Handler):
    """Messages on the current standard error: while a progress bar is shown, the lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        sys.stderr.write(f"{shown(self.format(record))}\n")


@contextmanager
def own_term_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM after code that installs its own."""
    if threading.current_thread() is not threading.main_thread():
        # Python allows handlers only in the main thread.
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _term_is_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which containers and batch systems send, like Ctrl-C."""
    with own_term_handler():
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            yield
        except SystemExit as error:
            # Raised by the handler of Ray while Ray starts.
            if error.code == signal.SIGTERM:
                raise KeyboardInterrupt from error
            raise


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def shown(text: str) -> str:
    """The text with all that could control a terminal escaped: names in data and in entries come from other people.

    That is every character that is not printable but newline and tab: C0, DEL, C1, marks of writing direction, surrogates.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode() for letter in text
    )


def answer_with(text: str) -> None:
    """Write the result to standard output."""
    try:
        sys.stdout.write(f"{shown(text)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe; without this Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_status(work: Callable[[], None], *, interrupted: str, typed: str = "") -> int:
    """Do the work of a command; its exit status is 0 for done, 2 for the user's mistake, 1 for anything else.

    ``interrupted`` says what is kept when the user stops it. ``typed`` is the run that the user started, without its stage,
    if the command is a run: the suggested commands repeat its options.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[_Messages()])
    try:
        with _term_is_interrupt():
            work()
    except OdkdError as error:
        sys.stderr.write(shown(f"{type(error).__name__}: {error}\n"))
        if error.remedy:
            sys.stderr.write(shown(f"  Next:    {command(error.remedy, typed)}\n"))
        return USER_MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write(f"Interrupted: {interrupted}.\n")
        return FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _STORAGE_FAULTS:
            sys.stderr.write(shown(f"StoreError: {error}\n  {_AGAIN}\n"))
            return USER_MISTAKE
        sys.stderr.write(shown(traceback.format_exc()))
        sys.stderr.write("This is a fault of the program. Finished work is kept. Please report the lines above.\n")
        return FAILED
    return DONE


def leave(status: int) -> NoReturn:
    """End this process at once with ``status``.

    After an interruption threads of trainings and of Ray may still run. Python's own exit would take standard error away
    from a thread that writes to it, and abort.
    """
    # Lines of standard error are out already, and a thread may hold its lock.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)
