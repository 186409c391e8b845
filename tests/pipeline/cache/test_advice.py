"""The commands that are suggested for remedies."""

from __future__ import annotations

import pytest

from pipeline.cache.advice import command, run_command
from storage_schemas.errors import Remedy

RUN = "python -m pipeline.run --config my.yaml --home '/a b'"


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("instances", "prepare"),
        ("teachers", "teachers"),
        ("views", "targets"),
        ("targets", "targets"),
        ("students", "distill"),
        ("evaluations", "evaluate"),
        ("reports", "report"),
    ],
)
def test_an_entry_is_rebuilt_by_the_stage_that_leaves_its_kind(kind: str, stage: str) -> None:
    assert command(Remedy("run", kind=kind, force=True)) == f"the same command with --stage {stage} --force"
    assert command(Remedy("run", kind=kind, force=True), RUN) == f"{RUN} --stage {stage} --force"


def test_the_scores_of_teachers_are_made_in_their_own_stage() -> None:
    scores = Remedy("run", kind="evaluations", stage="teachers", force=True)
    assert command(scores) == "the same command with --stage teachers --force"
    scores = Remedy("run", entry_id="evaluations/1", force=True)
    assert command(scores) == "the same command with --stage all --force evaluations/1"
    assert command(Remedy("run", kind="evaluations")) == "the same command with --stage all"


def test_a_kind_of_another_release_is_named() -> None:
    other = Remedy("run", kind="ablations", force=True)
    assert command(other) == "the same command with --force and the stage that makes 'ablations'"


def test_a_run_with_a_home_of_its_own_does_not_repeat_what_was_typed() -> None:
    known = Remedy("run", stage="all", home="/h", config="/h/runs/a/config.yaml", upstream="/team")
    assert command(known, RUN) == "python -m pipeline.run --config /h/runs/a/config.yaml --home /h --upstream /team --stage all"
    lost = Remedy("run", stage="all", home="/h", name="a")
    assert command(lost) == "python -m pipeline.run --config FILE --name a --home /h --stage all"


@pytest.mark.parametrize(
    ("remedy", "text"),
    [
        (Remedy("list", kind="targets", home="/h"), "python -m pipeline.cache ls targets --home /h"),
        (Remedy("verify", entry_id="views/1", home="/a b"), "python -m pipeline.cache verify views/1 --home '/a b'"),
        (
            Remedy("repair", entry_id="views/1", home="/h", upstream="/t"),
            "python -m pipeline.cache repair views/1 --home /h --upstream /t",
        ),
        (
            Remedy("drop", entry_id="views/1", home="/h", used=True, dry_run=True),
            "python -m pipeline.cache drop views/1 --used --dry-run --home /h",
        ),
        (Remedy("settings"), "python -m pipeline.config"),
        (Remedy("shell", text="ls -l /h"), "ls -l /h"),
        (Remedy("repeat", settings=("cluster.device=auto",)), "the same command with --set cluster.device=auto"),
        (Remedy("repeat", text="it continues"), "the same command: it continues"),
        (
            Remedy("shell", text="pip install x", settings=("cluster.device=cpu",)),
            "pip install x, or --set cluster.device=cpu",
        ),
    ],
)
def test_every_remedy_has_a_command(remedy: Remedy, text: str) -> None:
    assert command(remedy) == text


def test_what_the_user_typed_is_repeated() -> None:
    assert run_command(Remedy("run", config="my.yaml", home="/a b")) == RUN
    assert run_command(Remedy("run", settings=("a.b=[1, 2]",))) == "python -m pipeline.run --set 'a.b=[1, 2]'"
    forced = Remedy("run", stage="teachers", entry_id="teachers/1", force=True, settings=("a=b",))
    assert command(forced, RUN) == f"{RUN} --stage teachers --force teachers/1 --set a=b"
