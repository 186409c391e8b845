"""``export`` and ``import``: from one home to another, and what they say and refuse."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import DONE, USER_MISTAKE
from pipeline.experiments import refer
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry
from tests.support.archive_samples import content_of
from tests.support.cache_samples import Cache, leave_run, put, store_of
from tests.support.small_disk import remount, small_disk


@pytest.fixture
def other(tmp_path: LocalPath, capsys: pytest.CaptureFixture[str], cache: Cache) -> Cache:
    """Commands on another home, which is not there yet."""
    return Cache(tmp_path / "other", capsys)


def _names(export: Path) -> list[str]:
    return sorted("/".join(path.parts[-3:-1]) for path in export.rglob("manifest.json"))


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_an_experiment_comes_to_another_home_whole(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry], name: str
) -> None:
    assert cache("export", "demo", str(tmp_path / name)) == DONE
    assert cache.out == f"16 entries, 17 files, 2.1 kB exported to {tmp_path / name}\n"
    assert "export: 17/17 files" in cache.err
    assert other("import", str(tmp_path / name)) == DONE
    assert other.out.splitlines()[-2:] == [
        f"16 entries, 2.1 kB imported into {other.home / 'store'}",
        "To use them (FILE is a placeholder for their configuration): "
        f"python -m pipeline.run --config FILE --home {other.home} --stage all",
    ]
    assert "import: 17/17 files" in other.err
    assert other("verify") == DONE
    assert {row["key"] for row in other.json("ls")["entries"]} == {entry.key for key, entry in made.items() if key != "unused"}
    known = other.json("import", str(tmp_path / name))
    assert (known["imported"], len(known["exists already"]), known["exists already, with other bits"]) == ([], 16, [])
    assert other("import", str(tmp_path / name)) == DONE
    assert other.out.splitlines()[-1] == f"0 entries, 0 B imported into {other.home / 'store'}; 16 exist already"


def test_entries_are_exported_by_key_each_once(tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]) -> None:
    first, second = made["unused"], made["train"]
    known = cache.json("export", first.key[:8], second.entry_id, f"targets/{first.key[:8]}", str(tmp_path / "out"))
    assert known == {
        "entries": sorted([first.entry_id, second.entry_id]),
        "files": 2,
        "bytes": 14,
        "target": str(tmp_path / "out"),
    }
    assert _names(tmp_path / "out") == sorted([first.entry_id, second.entry_id])


def test_the_entries_of_several_experiments_come_together(tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]) -> None:
    leave_run(cache.home, "second", [made["train"], made["unused"]])
    assert cache("export", "demo", "second", str(tmp_path / "out")) == DONE
    assert _names(tmp_path / "out") == sorted(entry.entry_id for entry in made.values())


def test_a_name_of_an_experiment_goes_before_the_beginning_of_a_key(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]
) -> None:
    leave_run(cache.home, made["unused"].key[:4], [made["train"]])
    assert cache("export", made["unused"].key[:4], str(tmp_path / "out")) == DONE
    assert _names(tmp_path / "out") == [made["train"].entry_id]


def test_a_relative_target_lies_where_the_command_was_typed(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache("export", "demo", "out.tar") == DONE
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames()[0].startswith("store/")
    assert cache("import", "out.tar") == DONE


@pytest.mark.parametrize("text", ["nobody", ""])
def test_what_names_neither_is_refused_with_the_experiments_that_there_are(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], text: str
) -> None:
    assert cache("export", text, str(tmp_path / "out")) == USER_MISTAKE
    assert cache.err.startswith("ConfigError: No entry in ")
    assert "; or the name of an experiment: demo" in cache.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda cache, made: store_of(cache.home).discard(made["val"]), "1 entry missing, such as instances/"),
        (lambda cache, made: (cache.home / "runs" / "demo" / "metrics.json").write_text("{"), "metrics.json names no entries"),
        (
            lambda cache, made: (cache.home / "runs" / "demo" / "metrics.json").write_text('{"entries": {}}'),
            "no run of it has finished",
        ),
    ],
)
def test_an_experiment_that_is_not_whole_is_refused(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], spoil: Callable[[Cache, dict[str, Entry]], object], said: str
) -> None:
    spoil(cache, made)
    assert cache("export", "demo", str(tmp_path / "out")) == USER_MISTAKE
    assert cache.err.startswith("MissingInputError: Experiment 'demo' cannot be exported: ")
    assert said in cache.err
    assert f"runs/demo/config.resolved.yaml --home {cache.home} --stage all" in cache.err
    assert not (tmp_path / "out").exists()


def test_an_experiment_whose_entries_lie_in_a_teams_home_is_exported_whole(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    shutil.copytree(cache.home / "runs", other.home / "runs")
    shutil.copytree(cache.home / "store" / "targets", other.home / "store" / "targets")
    assert other("export", "demo", str(tmp_path / "out")) == USER_MISTAKE
    assert "14 entries missing, such as " in other.err
    assert other("export", "demo", str(tmp_path / "out"), "--upstream", str(cache.home)) == DONE
    assert other.out.startswith("16 entries, 17 files, ")


def test_the_teams_experiments_are_known_by_name_too(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    put(store_of(other.home), "instances", {"split": "mine"})
    assert other("export", "demo", str(tmp_path / "out"), "--upstream", str(cache.home)) == DONE
    assert len(_names(tmp_path / "out")) == 16


def test_a_name_of_an_archive_that_would_be_a_folder_is_refused(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]
) -> None:
    for name in ("demo.tgz", "demo.tar.gz", "demo.ZIP", "demo.TAR"):
        assert cache("export", "demo", str(tmp_path / name)) == USER_MISTAKE
        assert f"StoreError: {name} would be a folder" in cache.err
    assert not list(tmp_path.glob("demo*"))


def test_an_entry_that_lies_in_a_teams_home_is_found_by_its_key(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = put(store_of(other.home), "instances", {"split": "mine"})
    monkeypatch.setenv("ODKD_UPSTREAM", str(cache.home))
    assert other("export", made["train"].key[:12], mine.key, str(tmp_path / "out")) == DONE
    assert _names(tmp_path / "out") == sorted([made["train"].entry_id, mine.entry_id])
    assert other("export", "nobody", str(tmp_path / "none")) == USER_MISTAKE
    assert f"No entry in {other.home}/store or {cache.home}/store has a key that begins with 'nobody'" in other.err
    assert "; or the name of an experiment: demo" in other.err
    assert other("export", f"{cache.home}/store/{made['train'].entry_id}/", str(tmp_path / "again")) == DONE


def test_what_makes_a_teams_experiment_whole_is_run_in_the_teams_home(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    (cache.home / "runs" / "demo" / "metrics.json").write_text("{")
    put(store_of(other.home), "instances", {"split": "mine"})
    assert other("export", "demo", str(tmp_path / "out"), "--upstream", str(cache.home)) == USER_MISTAKE
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    assert f"  Next:    python -m pipeline.run --config {config} --home {cache.home} --stage all\n" in other.err


def test_a_teams_home_is_asked_only_for_what_is_missing(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODKD_UPSTREAM", str(tmp_path / "out of reach"))
    assert cache("export", "demo", str(tmp_path / "out")) == DONE
    assert cache("export", "nobody", str(tmp_path / "none")) == USER_MISTAKE
    assert "The upstream home" in cache.err
    assert cache("export", "demo", str(tmp_path / "more"), "--upstream", str(tmp_path / "out of reach")) == USER_MISTAKE
    assert "The upstream home" in cache.err


def test_damage_in_a_teams_home_is_to_be_looked_at_there(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    made["train"].path("file").write_bytes(b"Content")
    assert other("export", made["train"].key, str(tmp_path / "out"), "--upstream", str(cache.home)) == USER_MISTAKE
    assert f"  Next:    python -m pipeline.cache verify {made['train'].entry_id} --home {cache.home}\n" in other.err


def test_damage_that_a_teams_home_makes_good_is_to_be_dropped(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cache.home, tmp_path / "own")
    own = Cache(tmp_path / "own", capsys)
    entry = made["unused"]
    manifest = own.home / "store" / entry.entry_id / "manifest.json"
    manifest.write_bytes(b"")
    upstream = ("--upstream", str(cache.home))
    assert own("export", entry.entry_id, str(tmp_path / "out"), *upstream) == USER_MISTAKE
    assert f"  Next:    python -m pipeline.cache drop {entry.entry_id} --home {own.home}\n" in own.err
    assert own("drop", entry.entry_id) == DONE
    assert own("export", entry.entry_id, str(tmp_path / "out"), *upstream) == DONE


def test_what_came_in_before_the_disk_was_full_is_told(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache("export", "demo", str(tmp_path / "out.tar")) == DONE
    with small_disk(tmp_path / "small", "size=100k"):
        small = Cache(tmp_path / "small", capsys)
        assert small("import", str(tmp_path / "out.tar")) == USER_MISTAKE
        assert "cannot be imported: No space left on device" in small.err
        told = [line.split()[0] for line in small.out.splitlines() if line.endswith("  imported")]
        assert 0 < len(told) < 16
        assert {f"{row['kind']}/{row['key']}" for row in small.json("ls")["entries"]} == set(told)
        remount(tmp_path / "small", "size=2m")
        assert small("import", str(tmp_path / "out.tar")) == DONE
        assert small("verify") == DONE
        assert len(small.json("ls")["entries"]) == 16


@pytest.mark.parametrize("where", ["store", "kind", "entry"])
def test_a_file_where_an_imported_entry_belongs_is_told(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry], where: str
) -> None:
    entry = made["unused"]
    assert cache("export", entry.entry_id, str(tmp_path / "out")) == DONE
    path = other.home / {"store": "store", "kind": f"store/{entry.manifest.kind}", "entry": f"store/{entry.entry_id}"}[where]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a disk's own")
    assert other("import", str(tmp_path / "out")) == USER_MISTAKE
    assert f"StoreError: {path} is a file, and a folder belongs there\n" in other.err
    assert f"  Next:    mv {path} {path}.aside\n" in other.err
    path.rename(f"{path}.aside")
    assert other("import", str(tmp_path / "out")) == DONE
    assert other("verify") == DONE


def test_an_experiment_that_is_run_again_is_exported_as_its_figures_have_it(
    tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]
) -> None:
    refer(cache.home / "runs" / "demo", "now", ["views/0"])
    assert cache("export", "demo", str(tmp_path / "out")) == DONE
    assert cache.out.startswith("16 entries, ")


def test_an_experiment_that_has_never_ended_is_refused_with_its_own_settings(tmp_path: LocalPath, cache: Cache) -> None:
    refer(cache.home / "runs" / "new", "now", ["views/0"])
    (cache.home / "runs" / "new" / "unfinished" / "now" / "config.resolved.yaml").write_text("name: new\n")
    assert cache("export", "new", str(tmp_path / "out")) == USER_MISTAKE
    assert "1 entry missing, such as views/0" in cache.err
    assert f"--config {cache.home}/runs/new/unfinished/now/config.resolved.yaml --home {cache.home} --stage all" in cache.err


@pytest.mark.parametrize("where", ["", "targets/new", "out.tar"])
def test_an_export_into_the_store_is_refused(cache: Cache, made: dict[str, Entry], where: str) -> None:
    before = set((cache.home / "store").rglob("*"))
    assert cache("export", "demo", str(cache.home / "store" / where)) == USER_MISTAKE
    assert "is inside of the store" in cache.err
    assert set((cache.home / "store").rglob("*")) == before


def test_damage_is_told_and_nothing_exported(tmp_path: LocalPath, cache: Cache, made: dict[str, Entry]) -> None:
    made["primary"].path("weights").write_bytes(b"W" * 2000)
    assert cache("export", "demo", str(tmp_path / "out.tar")) == USER_MISTAKE
    assert f"CorruptEntryError: Entry {made['primary'].entry_id}: weights does not match its sha256" in cache.err
    assert not (tmp_path / "out.tar").exists()


def test_entries_with_other_bits_are_told_clearly(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    mine = put(store_of(other.home), "instances", {"split": "train"}, {}, file=b"others!")
    assert cache("export", made["train"].key, made["val"].key, str(tmp_path / "out")) == DONE
    lines = other.lines("import", str(tmp_path / "out"))
    assert [mine.entry_id, "7 B", "exists already, with other bits"] in lines
    assert [made["val"].entry_id, "7 B", "imported"] in lines
    assert lines[-3] == [f"1 entry, 7 B imported into {other.home / 'store'}; 1 exist already"]
    assert "are valid too" in lines[-2][0]
    assert mine.path("file").read_bytes() == b"others!"


def test_what_came_in_before_damage_is_told_beside_the_damage(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    first, second = sorted([made["train"].entry_id, made["unused"].entry_id])
    assert cache("export", first, second, str(tmp_path / "out")) == DONE
    next((tmp_path / "out" / "store" / second).rglob("file")).write_bytes(b"Content")
    assert other("import", str(tmp_path / "out")) == USER_MISTAKE
    assert other.out.splitlines()[1].split() == [first, "7", "B", "imported"]
    assert second not in other.out
    assert f"is damaged: {second}, file does not match its sha256" in other.err
    known: Any = other.json("ls")
    assert [f"{row['kind']}/{row['key']}" for row in known["entries"]] == [first]


def test_what_is_no_export_is_refused(tmp_path: LocalPath, other: Cache, made: dict[str, Entry], cache: Cache) -> None:
    for source, said in (
        (cache.home / "store", "holds no entries"),
        (tmp_path / "nothing", "There is no"),
    ):
        assert other("import", str(source)) == USER_MISTAKE
        assert said in other.err
        assert other.out == ""
    assert content_of(other.home) == {}


def test_an_imported_entry_is_young_however_old_it_is(
    tmp_path: LocalPath, cache: Cache, other: Cache, made: dict[str, Entry]
) -> None:
    """Whoever brings it in is about to use it."""
    assert cache("export", "demo", str(tmp_path / "out.tar")) == DONE
    assert other("import", str(tmp_path / "out.tar")) == DONE
    assert other.json("gc")["removed"] == []
    assert len(other.json("gc", "--min-age", "0", "--dry-run")["removed"]) == 16
