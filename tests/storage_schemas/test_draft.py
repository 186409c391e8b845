"""Drafts that adopt nothing, are held against what is expected of them, or are given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from buckets import local
from store_samples import FILES, RECIPE, fill, unfinished

from storage_schemas.entry import Draft, Store
from storage_schemas.errors import CorruptEntryError
from storage_schemas.manifest import FileFacts

# Of b"{}", by sha256sum.
SHA256_OF_BRACES = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_without_adoption_a_draft_begins_with_nothing_and_leaves_the_work_of_the_dead(store: Store) -> None:
    dead = unfinished(store, (0, 1))
    with store.draft("targets", RECIPE, adopt=False) as draft:
        assert isinstance(draft, Draft)
        assert list(local(draft.folder).iterdir()) == []
        fill(draft)
        draft.commit(FILES, measured={})
    assert (dead / "bits/c/0").is_file()


@pytest.mark.parametrize("facts", [FileFacts(2, "00"), FileFacts(3, SHA256_OF_BRACES)])
def test_a_file_that_is_not_what_is_expected_is_not_committed(store: Store, facts: FileFacts) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        with pytest.raises(CorruptEntryError, match=r"zarr\.json is not as it was"):
            draft.commit(FILES, measured={}, expected={"zarr.json": facts})
        assert store.find("targets", RECIPE) is None
        draft.commit(FILES, measured={}, expected={"zarr.json": replace(facts, size=2, sha256=SHA256_OF_BRACES)})


def test_work_that_is_abandoned_leaves_nothing_and_its_error_is_its_own(store: Store) -> None:
    def give_up() -> None:
        with store.draft("targets", RECIPE) as draft:
            assert isinstance(draft, Draft)
            fill(draft)
            draft.abandon()
            raise CorruptEntryError("its own")

    with pytest.raises(CorruptEntryError, match="its own"):
        give_up()
    assert list(local(store.root / "targets").glob("*/*")) == []
