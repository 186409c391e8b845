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
import sys, threading
from pipeline.cli import leave
def write():
    while True:
        sys.stderr.write("x" * 100 + "\\n")
for _ in range(4):
    threading.Thread(target=write, daemon=True).start()
print("the last line", end="")
leave(3)
"""


def test_a_process_whose_threads_still_write_ends_with_its_status() -> None:
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (3, "the last line")
        assert "Fatal" not in ended.stderr
