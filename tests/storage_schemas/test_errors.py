"""What an error proposes to type next."""

from __future__ import annotations

import pytest

from stages.base import StageName
from storage_schemas.errors import make_again


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
def test_an_entry_is_made_again_by_the_stage_that_leaves_its_kind(kind: str, stage: StageName) -> None:
    assert make_again(kind).startswith(f"the same command with --stage {stage} --force")


def test_the_scores_of_teachers_are_made_in_their_own_stage() -> None:
    assert make_again("evaluations", stage="teachers") == "the same command with --stage teachers --force"
    assert make_again("evaluations", force="evaluations/1") == "the same command with --stage all --force evaluations/1"


def test_a_kind_that_another_release_leaves_is_named() -> None:
    assert make_again("ablations") == "the same command with --force and the stage that makes 'ablations'"
