"""``verify``: what it finds, what it proposes, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import DONE, USER_MISTAKE
from pipeline.experiments import refer
from storage_schemas.errors import CorruptEntryError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry, Store
from tests.support.buckets import local
from tests.support.cache_samples import Cache, put, store_of
from tests.support.errors import suggested
from tests.support.store_samples import flip_bit, signed, truncate


def test_verify_of_a_whole_store_ends_well(cache: Cache, made: dict[str, Entry]) -> None:
    assert cache("verify") == DONE
    # 16 entries of 7 bytes, one of them in 2 files, and one of 2000 bytes.
    assert cache.out == "17 entries, 18 files, 2.1 kB: OK\n"
    assert "verify: 18/18 files" in cache.err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda entry: flip_bit(entry.path("bits/c/0")), "bits/c/0 does not match its sha256"),
        (lambda entry: truncate(entry.path("bits/c/0")), "bits/c/0 has 4 bytes where the manifest says 5"),
        (lambda entry: entry.path("bits/c/0").unlink(), "bits/c/0 is missing"),
    ],
)
def test_verify_names_the_damaged_file_and_the_command_that_mends_it(
    cache: Cache, made: dict[str, Entry], damage: Callable[[Entry], object], said: str
) -> None:
    entry = made["train bits"]
    damage(entry)
    assert cache("verify") == USER_MISTAKE
    command = f"python -m pipeline.cache repair {entry.entry_id} --home {cache.home}"
    assert cache.out.splitlines() == [
        f"{entry.entry_id}: {said}",
        f"  Next:    {command}",
        "17 entries, 18 files, 2.1 kB: 1 damaged file in 1 entry",
    ]
    assert cache.err.splitlines()[-3:] == [
        f"CorruptEntryError: {entry.entry_id} is damaged",
        "  Allowed: files as the manifests describe them",
        f"  Next:    {command}",
    ]
    assert cache.json("verify")["damaged"] == {entry.entry_id: {"problems": [said], "next": command}}
    assert cache("verify", made["student"].key) == DONE
    assert cache.out == "1 entry, 1 file, 7 B: OK\n"
    assert cache("verify", made["student"].key, entry.key[:8]) == USER_MISTAKE


def test_verify_of_damage_that_no_experiment_uses_says_so(cache: Cache, made: dict[str, Entry]) -> None:
    made["unused"].path("file").unlink()
    assert cache("verify") == USER_MISTAKE
    entry_id = made["unused"].entry_id
    again = f"python -m pipeline.cache drop {entry_id} --home {cache.home}"
    assert f"Next:    {again}\n" in cache.out
    assert cache(*again.split()[3:]) == DONE
    assert cache("verify") == DONE


def test_verify_names_the_settings_of_the_run_that_needs_what_is_damaged(cache: Cache, made: dict[str, Entry]) -> None:
    """Those beside the figures of the same name are of an earlier run, and would make another entry."""
    entry = put(Store(cache.home / "store"), "students", {"of": "other settings"})
    refer(cache.home / "runs" / "demo", "now", [entry.entry_id])
    entry.path("file").unlink()
    config = cache.home / "runs" / "demo" / "unfinished" / "now" / "config.resolved.yaml"
    config.write_text("name: demo\n")
    command = f"python -m pipeline.run --config {config} --home {cache.home} --stage distill --force {entry.entry_id}"
    assert cache.json("verify")["damaged"][entry.entry_id]["next"] == command


def test_what_cannot_be_read_is_not_to_be_made_again(
    cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network store that fails, or another user's file: all of it may be whole."""

    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalPath, "blocks", broken)
    for entry in (made["student"], made["train bits"]):
        found = cache.json("verify", entry.entry_id)["damaged"][entry.entry_id]
        assert "cannot be read (Input/output error)" in " ".join(found["problems"])
        assert found["next"] == f"python -m pipeline.cache verify {entry.entry_id} --home {cache.home}"
        with pytest.raises(CorruptEntryError) as caught:
            entry.check()
        assert suggested(caught.value) == found["next"]
        assert cache("repair", entry.entry_id) == USER_MISTAKE
        assert f"  Next:    {found['next']}\n" in cache.err


def test_verify_names_what_is_damaged_in_the_order_in_which_it_can_be_repaired(cache: Cache, made: dict[str, Entry]) -> None:
    names = ["train", "primary", "train view", "train bits", "student", "report"]
    for name in names:
        made[name].path(next(iter(made[name].manifest.files))).unlink()
    assert cache("verify") == USER_MISTAKE
    assert list(cache.json("verify")["damaged"]) == [made[name].entry_id for name in names]
    assert f"CorruptEntryError: {made['train'].entry_id} and 5 more entries are damaged" in cache.err


def test_verify_tells_what_an_experiment_names_and_nobody_has(
    cache: Cache, made: dict[str, Entry], tmp_path: LocalPath
) -> None:
    shutil.copytree(cache.home, tmp_path / "team")
    store_of(cache.home).discard(made["train bits"])
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    again = f"python -m pipeline.run --config {config} --home {cache.home} --stage targets"
    assert cache("verify") == DONE, "what is there is whole"
    assert cache.out.splitlines()[:2] == [
        f"Experiment 'demo': 1 entry missing, such as {made['train bits'].entry_id}",
        f"  To rebuild, unless --upstream HOME has it: {again}",
    ]
    assert cache.json("verify")["missing"] == {"demo": {"entries": [made["train bits"].entry_id], "next": again}}
    assert cache.json("verify", "--upstream", str(tmp_path / "team"))["missing"] == {}


def test_verify_counts_manifests_that_cannot_be_read(cache: Cache, made: dict[str, Entry]) -> None:
    for name in ("val", "val bits"):
        local(made[name].folder.parent / "manifest.json").write_bytes(b"")
    assert cache("verify") == USER_MISTAKE
    assert cache.out.splitlines()[-1] == "15 entries, 16 files, 2.1 kB: 2 damaged files in 2 entries"
    # Without its manifest the contents of its files are unknown, so repair cannot help, and a run rebuilds it.
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    command = f"python -m pipeline.run --config {config} --home {cache.home} --stage targets"
    assert cache.json("verify")["damaged"][made["val bits"].entry_id]["next"] == command
    assert cache("verify", made["val"].key) == USER_MISTAKE


def test_entries_of_another_schema_version_are_listed_and_may_be_dropped(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    manifest = local(entry.folder).parent / "manifest.json"
    manifest.write_bytes(signed({**json.loads(manifest.read_bytes()), "schema": 1}))
    assert cache("verify") == DONE, "it is not damaged"
    drop = f"python -m pipeline.cache drop {entry.entry_id} --dry-run --home {cache.home}"
    assert f"1 entry of another schema version, such as {entry.entry_id}\n" in cache.out
    assert f"  To delete one: {drop}\n" in cache.out
    assert cache.json("verify")["other_versions"] == [entry.entry_id]
    assert cache("verify", entry.key) == USER_MISTAKE, "it was to be looked at, and was not"
    assert "  Next:    use the release that wrote it, or another home\n" in cache.err
    assert ["targets", entry.key, "other schema version"] in cache.lines("ls")
    assert cache("gc", "--min-age", "0") == DONE
    assert manifest.exists()
    assert cache("drop", entry.key) == DONE
    assert list(manifest.parent.iterdir()) == []


def test_the_command_that_mends_reads_the_home_upstream_too(cache: Cache, made: dict[str, Entry], tmp_path: LocalPath) -> None:
    (tmp_path / "team" / "store").mkdir(parents=True)
    made["train bits"].path("bits/c/0").unlink()
    upstream = ("--upstream", str(tmp_path / "team"))
    found = cache.json("verify", *upstream)["damaged"][made["train bits"].entry_id]
    assert (
        found["next"]
        == f"python -m pipeline.cache repair {made['train bits'].entry_id} --home {cache.home} {' '.join(upstream)}"
    )


def test_a_sample_of_nothing_is_refused(cache: Cache, made: dict[str, Entry]) -> None:
    shutil.rmtree(cache.home / "runs")
    assert cache("verify", "--sample", "3") == USER_MISTAKE
    assert cache.err.startswith("MissingInputError: No experiment uses any targets in ")
    assert f"  Next:    python -m pipeline.run --config FILE --home {cache.home} --stage all\n" in cache.err


def test_a_home_upstream_that_is_out_of_reach_is_asked_only_for_what_is_missing(
    cache: Cache, made: dict[str, Entry], tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODKD_UPSTREAM", str(tmp_path / "out of reach"))
    assert cache("verify") == DONE
    store_of(cache.home).discard(made["train bits"])
    assert cache("verify", made["student"].key) == DONE
    assert cache("verify") == USER_MISTAKE
    assert "The upstream home" in cache.err


@pytest.mark.parametrize("command", [("verify",), ("ls",), ("gc",), ("drop", "targets")])
@pytest.mark.parametrize("where", ["store", "kind", "entry", "runs", "unfinished"])
def test_a_file_where_a_folder_belongs_is_told_and_stays(
    cache: Cache, made: dict[str, Entry], command: tuple[str, ...], where: str
) -> None:
    if where in ("runs", "unfinished") and command[0] == "drop":
        command = ("drop", made["unused"].key)
    path = _folder(cache, made, where)
    shutil.rmtree(path, ignore_errors=True)
    path.write_bytes(b"a disk's own")
    Path(f"{path}.aside").write_bytes(b"of the last time")
    assert cache(*command) == USER_MISTAKE
    assert f"StoreError: {path} is a file, and a folder belongs there\n" in cache.err
    assert f"  Next:    mv {path} {path}.aside1\n" in cache.err
    assert path.read_bytes() == b"a disk's own"
    path.rename(f"{path}.aside1")
    assert cache("verify") == DONE


def _folder(cache: Cache, made: dict[str, Entry], where: str) -> Path:
    runs, entry = cache.home / "runs", local(made["val bits"].folder).parent
    return {
        "store": cache.home / "store",
        "kind": entry.parent,
        "entry": entry,
        "runs": runs,
        "unfinished": runs / "demo" / "unfinished",
    }[where]


@pytest.mark.parametrize("command", [("verify",), ("ls", "targets"), ("gc",), ("drop", "targets")])
@pytest.mark.parametrize("where", ["store", "kind", "entry"])
def test_a_link_to_a_disk_that_is_not_there_is_no_empty_folder(
    cache: Cache, made: dict[str, Entry], tmp_path: LocalPath, command: tuple[str, ...], where: str
) -> None:
    path = _folder(cache, made, where)
    path.rename(tmp_path / "the disk")
    path.symlink_to(tmp_path / "the disk")
    assert cache("verify") == DONE
    (tmp_path / "the disk").rename(tmp_path / "elsewhere")
    assert cache(*command) == USER_MISTAKE
    assert f"StoreError: {path} is a link that leads nowhere\n" in cache.err
    assert f"  Next:    ls -l {path}\n" in cache.err
    (tmp_path / "elsewhere").rename(tmp_path / "the disk")
    assert cache("verify") == DONE


def test_damage_that_an_experiment_may_use_is_not_to_be_dropped(
    cache: Cache, made: dict[str, Entry], caplog: pytest.LogCaptureFixture
) -> None:
    """Its figures are lost, and a run of all stages, which finds everything, writes them again."""
    (cache.home / "runs" / "demo" / "metrics.json").write_bytes(b"")
    made["train bits"].path("zarr").unlink()
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    again = f"python -m pipeline.run --config {config} --home {cache.home} --stage all"
    assert cache.json("verify")["damaged"][made["train bits"].entry_id]["next"] == again
    assert f"; to find out: {again}" in caplog.text


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_lost_settings_are_told_and_stand_as_file_in_commands(
    cache: Cache, made: dict[str, Entry], caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    """Of an empty file a run would take the defaults."""
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    config.write_text("\n")
    if lost == "gone":
        config.unlink()
    local(made["student"].folder / "file").write_bytes(b"")
    local(made["train bits"].folder / "zarr").write_bytes(b"")
    damaged = cache.json("verify")["damaged"]
    again = f"python -m pipeline.run --config FILE --name demo --home {cache.home}"
    assert damaged[made["student"].entry_id]["next"] == f"{again} --stage distill --force {made['student'].entry_id}"
    warning = f"The settings of experiment 'demo' in {cache.home}/runs/demo are lost: "
    assert sum(message.startswith(warning) for message in caplog.messages) == 1
    assert cache("repair", made["train bits"].key) == USER_MISTAKE
    assert f"The settings of demo, which uses {made['train bits'].entry_id}, are lost" in cache.err
    assert f"  Next:    {again} --stage all\n" in cache.err
