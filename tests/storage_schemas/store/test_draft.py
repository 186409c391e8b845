"""Drafts: adopting parts, checking files at the commit, abandoning work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Store
from tests.support.buckets import local
from tests.support.store_samples import FILES, RECIPE, fill, flip_bit, make_entry, truncate, unfinished, write_file

# Of b"{}", by sha256sum.
SHA256_OF_BRACES = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


# Parts of the dead


def test_draft_adopts_the_parts_of_a_dead_writer_and_deletes_the_rest(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    whole = make_entry(Store(store.root / "unbroken")).manifest.payload
    dead = unfinished(store, (0,))
    local(dead / "rubbish").write_bytes(b"half written")
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-0"}
        assert not (draft.folder / "rubbish").exists()
        for name in FILES[1:]:
            write_file(draft, name)
        made = draft.commit(FILES, measured={})
    assert made.manifest.payload == whole
    assert made.damaged() == {}
    assert caplog.messages == [f"targets/{made.key}: resuming with 1 finished parts of an earlier run"]
    assert {path.name for path in local(made.folder.parent).iterdir()} == {"manifest.json", made.folder.name}


def test_draft_adopts_the_parts_of_several_dead_writers(store: Store) -> None:
    unfinished(store, (0,))
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        write_file(draft, "bits/c/1")
        finish_part(draft.folder, "block-1", ["bits/c/1"], notes={"bad": 7})
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        parts = draft.parts()
        assert set(parts) == {"block-0", "block-1"}
        assert parts["block-1"].notes == {"bad": 7}


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b""), truncate, flip_bit])
def test_draft_does_not_adopt_a_part_with_a_damaged_file(
    store: Store, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    dead = unfinished(store, (0, 1))
    damage(local(dead / "bits/c/0"))
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-1"}
        assert not (draft.folder / "bits/c/0").exists()
    assert "bits/c/0" in caplog.text


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b'{"name": "block-0", "files": [], "notes": {}}'])
def test_draft_does_not_adopt_a_part_with_a_damaged_marker(store: Store, marker: bytes) -> None:
    local(unfinished(store, (0,)) / "block-0.part.json").write_bytes(marker)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert draft.parts() == {}


def test_commit_refuses_a_file_that_changed(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        flip_bit(local(draft.folder / "bits/c/0"))
        with pytest.raises(CorruptEntryError, match="bits/c/0 does not match its sha256"):
            draft.commit(FILES, measured={})
    assert store.find("targets", RECIPE) is None
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-1"}


def test_commit_takes_the_last_version_of_a_part(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        write_file(draft, "bits/c/0", b"another")
        finish_part(draft.folder, "block-0", ["bits/c/0"])
        assert draft.commit(FILES, measured={}).damaged() == {}


def test_a_commit_without_a_file_leaves_no_entry(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        write_file(draft, "zarr.json")
        with pytest.raises(FileNotFoundError):
            draft.commit(FILES, measured={})
    assert store.find("targets", RECIPE) is None


def test_draft_without_adoption_keeps_the_work_of_dead_writers(store: Store) -> None:
    dead = unfinished(store, (0, 1))
    with store.draft("targets", RECIPE, adopt=False) as draft:
        assert isinstance(draft, Draft)
        assert list(local(draft.folder).iterdir()) == []
        fill(draft)
        draft.commit(FILES, measured={})
    assert (dead / "bits/c/0").is_file()


def test_abandon_deletes_the_work_and_keeps_the_error(store: Store) -> None:
    def give_up() -> None:
        with store.draft("targets", RECIPE) as draft:
            assert isinstance(draft, Draft)
            fill(draft)
            draft.abandon()
            raise CorruptEntryError("its own")

    with pytest.raises(CorruptEntryError, match="its own"):
        give_up()
    assert list(local(store.root / "targets").glob("*/*")) == []
