"""What a command writes to the terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.cli import DONE, USER_MISTAKE, answer_with, exit_status, shown
from storage_schemas.errors import DataError, Remedy

HOSTILE = {
    "C0": "\x1b[2J\x07",
    "return": "good\rbad",
    "DEL": "\x7f",
    "C1": "\x9b31m",
    "direction": "\u202egpj.exe\u2066",
    "surrogate": "\udc9b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_could_control_a_terminal_is_escaped(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(f"a {text}\n\tb") == f"a {shown(text)}\n\tb"


def test_ordinary_text_of_all_languages_stays() -> None:
    for text in ("Grüße, 姿勢, позы", "ok\n  next line\ttab", "C:\\new"):
        assert shown(text) == text


def test_errors_answers_and_log_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise DataError("image \x1b[2J.jpg", allowed="\u202eno", remedy=Remedy("advice", text="rename \x9b"))

    assert exit_status(refuse, interrupted="") == USER_MISTAKE
    assert exit_status(lambda: answer_with("\x1b]0;title\x07"), interrupted="") == DONE
    written = capsys.readouterr()
    assert written.err == "DataError: image \\x1b[2J.jpg\n  Allowed: \\u202eno\n  Next:    rename \\x9b\n"
    assert written.out == "\\x1b]0;title\\x07\n"


BUSY = """
import sys, threading, time
from pipeline.cli import leave
def write():
    while True:
        sys.stderr.write("x" * 100 + "\\n")
threading.Thread(target=write, daemon=True).start()
time.sleep(0.5)
print("the last line", end="")
leave(3)
"""


def test_a_process_ends_with_its_status_while_a_thread_waits_to_write() -> None:
    """Nobody reads its standard error, so the thread never ends; the answer is written all the same."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(timeout=60) == 3
        assert process.stdout is not None
        assert process.stdout.read() == "the last line"
