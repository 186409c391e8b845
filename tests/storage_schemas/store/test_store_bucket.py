"""A store in a bucket, on a real server of the S3 protocol."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.bucket import BucketPath
from storage_schemas.paths.local import LocalPath
from storage_schemas.paths.path import StorePath
from storage_schemas.store.gc import find_garbage, remove
from storage_schemas.store.inventory import entry_ids, take_inventory
from storage_schemas.store.lease import LeaseWatch, lease_of
from storage_schemas.store.parts import finish_part
from storage_schemas.store.store import Draft, Entry, Store
from storage_schemas.store.verify import verify
from tests.support.buckets import Server
from tests.support.errors import suggested
from tests.support.store_samples import CONTENT, FILES, RECIPE, entries_of, fill, make_entry, unfinished, write_file


@pytest.fixture
def store(bucket: BucketPath) -> Store:
    return Store(bucket / "home" / "store")


@pytest.fixture
def payload(tmp_path: LocalPath) -> str:
    """What a store on a file system makes of the same."""
    return make_entry(Store(tmp_path / "local")).manifest.payload


def _names(store: Store) -> set[str]:
    return set(store.root.files_below())


def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: LocalPath) -> None:
    """From here on this process is at another node."""
    monkeypatch.setenv("ODKD_CACHE", str(tmp_path / "other node"))


# Entries


def test_bucket_and_folder_give_the_same_payload(store: Store, payload: str) -> None:
    made = make_entry(store, measured={"AP": 0.5})
    assert made.manifest.payload == payload
    assert store.find("targets", RECIPE) == made
    assert store.find("targets", {**RECIPE, "threshold": 0.4}) is None
    assert entries_of(store) == [made]
    assert entry_ids(store) == [made.entry_id]
    assert take_inventory(store).entries == {made.entry_id: made}
    names = {f"{made.entry_id}/{made.folder.name}/{name}" for name in FILES}
    assert _names(store) == {*names, f"{made.entry_id}/manifest.json"}
    with store.draft("targets", RECIPE) as draft:
        assert draft == made


def test_another_node_downloads_and_verifies_an_entry(
    store: Store, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_entry(store)
    _elsewhere(monkeypatch, tmp_path)
    assert not made.folder.mirror().exists()
    assert made.path("bits/c/0").read_bytes() == CONTENT["bits/c/0"]
    assert {name: (made.fetch() / name).read_bytes() for name in FILES} == CONTENT
    assert made.fetch().is_relative_to(tmp_path / "other node")
    assert not list(made.folder.mirror().rglob("*.partial"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(missing_ok=True), "is missing"),
        (lambda path: path.write_atomic(b"first shar"), "has 10 bytes where the manifest says 11"),
        (lambda path: path.write_atomic(b"first shaRd"), "does not match its sha256"),
    ],
)
def test_fetch_refuses_a_damaged_object(
    store: Store, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, damage: Callable[[StorePath], None], said: str
) -> None:
    made = make_entry(store)
    damage(made.folder / "bits/c/0")
    _elsewhere(monkeypatch, tmp_path)
    for read in (partial(made.path, "bits/c/0"), made.fetch):
        with pytest.raises(CorruptEntryError, match=f"bits/c/0 {said}") as caught:
            read()
        assert suggested(caught.value) == f"python -m pipeline.cache repair {made.entry_id} --home {store.root.parent}"
    assert {name: str(problem) for name, problem in made.damaged().items()} == {"bits/c/0": said}
    damaged = verify(take_inventory(store), advance=lambda: None)
    assert {entry_id: damage.problems for entry_id, damage in damaged.items()} == {made.entry_id: [f"bits/c/0 {said}"]}
    with pytest.raises(CorruptEntryError, match=f"bits/c/0 {said}"):
        made.check()


def test_fetch_replaces_a_damaged_local_copy(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_entry(store)
    path = made.path("bits/c/0")
    path.write_bytes(b"first shaRd")
    with caplog.at_level(logging.WARNING):
        assert made.path("bits/c/0").read_bytes() == CONTENT["bits/c/0"]
    assert f"{path} differs from the manifest" in caplog.text
    # As long as it is whole, it is not asked for.
    monkeypatch.setattr(BucketPath, "blocks", None)
    assert made.path("bits/c/0").read_bytes() == CONTENT["bits/c/0"]


def test_put_back_accepts_only_the_original_object(store: Store) -> None:
    made = make_entry(store)
    (made.folder / "bits/c/0").unlink()
    (store.root / "wrong").write_atomic(b"first shaRd")
    (store.root / "right").write_atomic(b"first shard")
    assert not made.put_back("bits/c/0", store.root / "wrong")
    assert list(made.damaged()) == ["bits/c/0"]
    assert made.put_back("bits/c/0", store.root / "right")
    assert made.damaged() == {}


def test_draft_sets_a_damaged_manifest_aside(store: Store) -> None:
    manifest = make_entry(store).folder.parent / "manifest.json"
    assert isinstance(manifest, BucketPath)
    manifest.write_atomic(b"{}")
    assert store.find("targets", RECIPE) is None
    again = make_entry(store)
    assert store.find("targets", RECIPE) == again
    assert [path.read_bytes() for path in manifest.parent.children()[1] if "damaged" in path.name] == [b"{}"]


def test_discard_deletes_all_objects(store: Store) -> None:
    made = make_entry(store)
    store.discard(made)
    assert _names(store) == set()
    assert not made.folder.mirror().exists()
    assert store.find("targets", RECIPE) is None


# Writers


def test_another_node_adopts_the_parts_of_a_dead_writer(
    store: Store, payload: str, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dead = unfinished(store, (0,))
    assert isinstance(dead, BucketPath)
    (dead / "rubbish").write_atomic(b"half written")
    _elsewhere(monkeypatch, tmp_path)
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-0"}
        assert (draft.finished("bits/").fetch() / "bits/c/0").read_bytes() == CONTENT["bits/c/0"]
        for name in FILES[1:]:
            write_file(draft, name)
        finish_part(draft.folder, "block-1", ["bits/c/1"])
        entry = draft.commit(FILES, measured={})
    assert caplog.messages == [f"{entry.entry_id}: resuming with 1 finished parts of an earlier run"]
    assert (entry.manifest.payload, entry.damaged()) == (payload, {})
    assert {name.split("/")[2] for name in _names(store)} == {"manifest.json", entry.folder.name}


def test_draft_does_not_adopt_a_truncated_object(store: Store) -> None:
    dead = unfinished(store, (0, 1))
    (dead / "bits/c/0").write_atomic(b"first")
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert set(draft.parts()) == {"block-1"}


def test_commit_refuses_an_object_that_changed(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        (draft.folder / "bits/c/0").write_atomic(b"first")
        with pytest.raises(CorruptEntryError, match="bits/c/0 has 5 bytes"):
            draft.commit(FILES, measured={})


def test_a_repeated_commit_keeps_the_files(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        fill(draft)
        real = draft._clean
        draft._clean = lambda keep: None  # type: ignore[method-assign]
        first = draft.commit(FILES, measured={})
        draft._clean = real  # type: ignore[method-assign]
        assert draft.commit(FILES, measured={}) == first
    assert first.damaged() == {}
    # Markers and the like go then, since nobody looks for them in an entry later.
    assert set(first.folder.files_below()) == set(FILES)


def test_draft_finds_a_new_entry_despite_an_old_listing(store: Store) -> None:
    assert store.find("targets", RECIPE) is None
    made = make_entry(Store(store.root))
    with store.draft("targets", RECIPE) as found:
        assert found == made
    assert store.find("targets", RECIPE) == made


def test_concurrent_fetches_on_a_node_download_once(store: Store, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_entry(store)
    _elsewhere(monkeypatch, tmp_path)
    asked: list[str] = []
    real = BucketPath.blocks

    def blocks(self: BucketPath) -> Iterator[bytes]:
        asked.append(self.name)
        time.sleep(0.1)
        return real(self)

    monkeypatch.setattr(BucketPath, "blocks", blocks)
    with ThreadPoolExecutor(4) as pool:
        assert len({path.read_bytes() for path in pool.map(made.path, ["bits/c/0"] * 4)}) == 1
    assert asked == ["0"]


@pytest.mark.parametrize("winner", [0, 1])
def test_the_second_writer_returns_the_entry_of_the_first(store: Store, monkeypatch: pytest.MonkeyPatch, winner: int) -> None:
    monkeypatch.setattr(LeaseWatch, "is_dead", lambda _: True)
    with store.draft("targets", RECIPE) as first, store.draft("targets", RECIPE) as second:
        drafts = [first, second]
        for draft in drafts:
            assert isinstance(draft, Draft)
            fill(draft)
        entries = [each.commit(FILES, measured={}) for each in (drafts[winner], drafts[1 - winner]) if isinstance(each, Draft)]
    assert entries[0] == entries[1] == store.find("targets", RECIPE)
    assert entries[0].folder == drafts[winner].folder
    assert entries[0].damaged() == {}


def _race(store: Store, start: object, found: object) -> None:
    with store.draft("targets", RECIPE) as draft:
        if isinstance(draft, Draft):
            for name in FILES:
                write_file(draft, name)
            start.wait()  # type: ignore[attr-defined]
            draft = draft.commit(FILES, measured={})
    found.put((draft.folder, draft.damaged()))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_one_of_several_simultaneous_commits_wins(store: Store) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, found = spawn.Barrier(3), spawn.Queue()
    # Each takes the others for dead: so that all of them come to the manifest.
    processes = [spawn.Process(target=_race_unwatched, args=(store.root, start, found)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({folder for folder, _ in results}) == 1
    assert [problems for _, problems in results] == [{}, {}, {}]


def _race_unwatched(root: BucketPath, start: object, found: object) -> None:
    LeaseWatch.is_dead = lambda _: True  # type: ignore[method-assign, assignment]
    _race(Store(root), start, found)


def test_gc_deletes_dead_work_and_unused_entries_in_a_bucket(store: Store) -> None:
    dead, made = unfinished(store, (0,)), make_entry(store, {**RECIPE, "threshold": 0.4})
    garbage, left = find_garbage(store, (), min_age_seconds=0)
    assert left == {}
    assert {(item.what, item.paths[-1]) for item in garbage} == {("unfinished work", dead), ("entry", made.folder)}
    assert find_garbage(store, (), min_age_seconds=3600) == ([], {})
    assert find_garbage(store, {made.entry_id}, min_age_seconds=0)[0] != garbage
    for item in garbage:
        assert item.size > 0
        assert remove(store, item, lambda: False)
    assert _names(store) == set()


def test_a_lease_in_a_bucket_exists_while_it_is_held(store: Store) -> None:
    with store.draft("targets", RECIPE) as draft:
        assert isinstance(draft, Draft)
        assert not LeaseWatch(lease_of(draft.folder)).is_dead()
    assert LeaseWatch(lease_of(draft.folder)).is_gone()


# Faults


def test_entries_survive_failing_requests(
    store: Store, server: Server, payload: str, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail_every(3)
    dead = unfinished(store, (0,))
    entries: list[Entry] = [make_entry(store, {**RECIPE, "number": number}) for number in range(4)]
    entries.append(make_entry(store))
    _elsewhere(monkeypatch, tmp_path)
    for entry in entries:
        assert entry.manifest.payload == payload
        assert store.find("targets", entry.manifest.recipe) == entry
        assert {name: (entry.fetch() / name).read_bytes() for name in FILES} == CONTENT
    assert server.failed() > 20
    server.fail_every(0)
    assert [entry.damaged() for entry in entries] == [{}] * 5
    assert not dead.is_dir()
    assert len(entry_ids(store)) == 5
