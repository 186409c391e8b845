"""Two writers of one entry: waiting, giving way and taking over."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from storage_schemas.errors import DataError, StoreError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store import lease
from storage_schemas.store import store as entry_module
from storage_schemas.store.lease import Lease, LeaseWatch
from storage_schemas.store.parts import finish_part
from storage_schemas.store.recipe import key_of
from storage_schemas.store.store import Draft, Entry, Store
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.store_samples import FILES, RECIPE, fill, make_entry, unfinished, write_file


@pytest.fixture
def store(tmp_path: LocalPath) -> Store:
    return Store(tmp_path)


def test_the_second_writer_waits_for_the_first_and_returns_its_entry(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with store.draft("targets", RECIPE) as first:
        assert isinstance(first, Draft)
        fill(first)
        rounds: list[float] = []

        def pass_time(seconds: float) -> None:
            rounds.append(seconds)
            if len(rounds) == 3:
                first.commit(FILES, measured={})

        monkeypatch.setattr(time, "sleep", pass_time)
        with store.draft("targets", RECIPE) as second:
            assert isinstance(second, Entry)
            assert second.folder == first.folder
    assert len(rounds) == 3
    assert caplog.messages == [
        f"Waiting for targets/{first.key}, which process {os.getpid()} on {os.uname().nodename} is making"
    ]


def test_the_second_writer_continues_the_work_of_the_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drafting = store.draft("targets", RECIPE)
    first = drafting.__enter__()
    assert isinstance(first, Draft)
    write_file(first, "bits/c/0")
    finish_part(first.folder, "block-0", ["bits/c/0"])
    monkeypatch.setattr(time, "sleep", lambda _: drafting.__exit__(None, None, None))
    with store.draft("targets", RECIPE) as second:
        assert isinstance(second, Draft)
        assert set(second.parts()) == {"block-0"}


def test_an_expired_lease_of_another_machine_is_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = unfinished(store, (0,))
    _lease_elsewhere(local(dead))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-0"}
    assert 60 < now[0] < 62


def test_a_writer_without_a_folder_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease comes first, so that there is no moment in which a folder looks abandoned."""
    seen: list[bool] = []
    real = Path.mkdir

    def mkdir(self: LocalPath, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if self.parent.name == key_of("targets", RECIPE):
            seen.append(LeaseWatch(self.with_name(f"{self.name}.lease")).is_dead())
        real(self, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    make_entry(store)
    assert set(seen) == {False}


class _Interrupted:
    """A lease before which something happens, once."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens: list[Callable[[], object]] = [happens]

    def __call__(self, path: LocalPath) -> Lease:
        if self._happens:
            self._happens.pop()()
        return Lease(path)


def test_draft_finds_an_entry_that_is_committed_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer has given its lease back: without the second look its folder would be taken for an abandoned one."""
    made: list[Entry] = []
    monkeypatch.setattr(entry_module, "Lease", _Interrupted(lambda: made.append(make_entry(store))))
    with store.draft("targets", RECIPE) as draft:
        assert draft == made[0]
    assert made[0].damaged() == {}
    assert {path.name for path in local(made[0].folder.parent).iterdir()} == {"manifest.json", made[0].folder.name}


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b")], ids=["the older", "the one that has begun"])
def test_one_of_two_simultaneous_writers_gives_way(
    store: Store, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """The other one begins between our name and our lease: it goes on, because it is older or because it has its folder."""
    other = store.draft("targets", RECIPE)
    begun: list[Draft | Entry] = []
    monkeypatch.setattr(entry_module, "Lease", _Interrupted(lambda: begun.append(other.__enter__())))

    def finish(_: float) -> None:
        draft = begun[0]
        assert isinstance(draft, Draft)
        fill(draft)
        draft.commit(FILES, measured={})
        other.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", finish)
    left = iter(names)
    real = Draft.__init__

    def named(self: Draft, home: LocalPath, kind: str, recipe: dict[str, Any], *, replaces: LocalPath | None) -> None:
        real(self, home, kind, recipe, replaces=replaces)
        self.folder = home / next(left)

    monkeypatch.setattr(Draft, "__init__", named)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Entry)
        assert draft.folder.name == names[1]


class _Unwatched:
    """Two drafts at once, each of which takes the other for dead."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(LeaseWatch, "is_dead", lambda _: True)
        self._contexts = [store.draft("targets", RECIPE), store.draft("targets", RECIPE)]

    def __enter__(self) -> tuple[Draft, Draft]:
        first = self._contexts[0].__enter__()
        assert isinstance(first, Draft)
        fill(first)
        second = self._contexts[1].__enter__()
        assert isinstance(second, Draft)
        assert set(second.parts()) == {"block-0", "block-1"}
        write_file(second, "zarr.json")
        return first, second

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for context in self._contexts:
            context.__exit__(None, None, None)


@pytest.mark.parametrize("winner", [0, 1])
def test_a_slow_writer_that_was_taken_over_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, winner: int) -> None:
    with _Unwatched(store, monkeypatch) as drafts:
        entries = [drafts[each].commit(FILES, measured={}) for each in (winner, 1 - winner)]
    assert entries[0] == entries[1] == store.find("targets", RECIPE)
    assert entries[0].folder == drafts[winner].folder
    assert entries[0].damaged() == {}


def _lease_elsewhere(folder: LocalPath) -> None:
    """The lease of an attempt, as a writer on another machine would have written it."""
    foreign = {"owner": "x", "host": "elsewhere", "machine": "other", "pid": "1", "started": "1", "beat": 0}
    folder.with_name(f"{folder.name}.lease").write_text(json.dumps(foreign))


def test_a_writer_that_may_live_deletes_its_folder_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with _Unwatched(store, monkeypatch) as (slow, second):
        _lease_elsewhere(local(slow.folder))
        entry = second.commit(FILES, measured={})
        assert (slow.folder / "zarr.json").read_bytes() == b"{}"
        write_file(slow, "bits/c/1")
        finish_part(slow.folder, "block-1", ["bits/c/1"])
        assert slow.commit(FILES, measured={}) == entry
    assert {path.name for path in local(entry.folder.parent).iterdir()} == {"manifest.json", entry.folder.name}


def test_a_writer_without_its_folder_returns_the_existing_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with _Unwatched(store, monkeypatch) as (slow, second):

        def late(files: list[str]) -> dict[str, Any]:
            # Between the look at the manifest and the hashing of the files.
            second.commit(FILES, measured={"by": "second"})
            shutil.rmtree(local(slow.folder))
            return real(files)

        real = slow._facts
        monkeypatch.setattr(slow, "_facts", late)
        assert slow.commit(FILES, measured={}).measured == {"by": "second"}


@pytest.mark.parametrize("act", ["commit", "work"])
def test_a_writer_that_was_taken_over_raises_an_error_with_a_remedy(store: Store, act: str) -> None:
    def lose() -> None:
        with store.draft("targets", RECIPE) as draft:
            assert isinstance(draft, Draft)
            fill(draft)
            shutil.rmtree(local(draft.folder))
            if act == "commit":
                draft.commit(FILES, measured={})
            else:
                finish_part(draft.folder, "block-0", ["bits/c/0"])

    with pytest.raises(StoreError, match="Another run took the work on targets/") as caught:
        lose()
    assert "the same command" in suggested(caught.value)
    assert list(local(store.root / "targets").glob("*/*")) == []


def test_an_error_after_giving_way_is_not_reported_as_a_takeover(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is gone then too, and rightly."""
    monkeypatch.setattr(LeaseWatch, "is_dead", lambda _: True)

    def go_on() -> None:
        with store.draft("targets", RECIPE) as draft:
            assert isinstance(draft, Draft)
            make_entry(store)
            draft.commit(FILES, measured={})
            assert not draft.folder.exists()
            raise DataError("something later")

    with pytest.raises(DataError, match="later"):
        go_on()


def test_the_second_commit_returns_the_entry_of_the_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalPath.write_atomic
    with _Unwatched(store, monkeypatch) as (first, second):

        def late(path: LocalPath, data: bytes, *, exclusive: bool) -> None:
            monkeypatch.setattr(LocalPath, "write_atomic", real)
            first.commit(FILES, measured={"by": "first"})
            path.write_atomic(data, exclusive=exclusive)

        monkeypatch.setattr(LocalPath, "write_atomic", late)
        entry = second.commit(FILES, measured={"by": "second"})
    assert entry.measured == {"by": "first"}
    assert entry.damaged() == {}
    assert not second.folder.exists()


def test_a_repeated_commit_keeps_the_files(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        first = draft.commit(FILES, measured={})
        assert draft.commit(FILES, measured={}) == first
    assert first.damaged() == {}


def test_draft_adopts_no_half_of_a_vanishing_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a half linked part would be those of the entry that the other one has committed."""
    dead = unfinished(store, (0,))
    real = Path.hardlink_to

    def vanish(self: Path, target: Path) -> None:
        if target.name.endswith(".part.json"):
            target.unlink()
        real(self, target)

    with store.draft("views", RECIPE) as draft:
        assert isinstance(draft, Draft)
        monkeypatch.setattr(Path, "hardlink_to", vanish)
        assert draft.adopt(dead) == 0
        assert [path for path in local(draft.folder).rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("watches", "seconds"), [(True, 60), (False, 180)])
def test_the_leases_of_a_dead_run_expire_together_if_they_are_watched(
    store: Store, monkeypatch: pytest.MonkeyPatch, watches: bool, seconds: float
) -> None:
    """A run on another machine died while it made three entries."""
    recipes = [{**RECIPE, "number": number} for number in range(3)]
    for recipe in recipes:
        folder = local(store.root) / "targets" / key_of("targets", recipe) / "0-dead"
        folder.mkdir(parents=True)
        _lease_elsewhere(folder)
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda passed: now.__setitem__(0, now[0] + passed))
    monkeypatch.setattr(lease, "time", clock)
    if watches:
        store.watch([f"targets/{key_of('targets', recipe)}" for recipe in recipes])
    for recipe in recipes:
        with store.draft("targets", recipe) as draft:
            assert isinstance(draft, Draft)
            fill(draft)
            draft.commit(FILES, measured={})
    assert now[0] - 1000 == pytest.approx(seconds, abs=3)
