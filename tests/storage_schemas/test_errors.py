"""Errors keep all their parts on the way to the user."""

from __future__ import annotations

import pickle

import pytest

from storage_schemas.errors import CorruptEntryError, OdkdError, Remedy


@pytest.mark.parametrize("remedy", [None, Remedy("run", kind="instances", force=True, settings=("cluster.device=cpu",))])
def test_an_error_keeps_its_parts_when_it_is_pickled(remedy: Remedy | None) -> None:
    error = CorruptEntryError("views/1 is damaged", allowed="whole files", remedy=remedy)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is CorruptEntryError
    assert (copy.seen, copy.allowed, copy.remedy) == (error.seen, error.allowed, error.remedy)


def test_the_text_of_an_error_says_what_was_seen_and_what_is_expected() -> None:
    assert str(OdkdError("the home is relative", allowed="an absolute path")) == (
        "the home is relative\n  Allowed: an absolute path"
    )
