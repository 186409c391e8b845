"""``ls``, ``show`` and ``diff``: what they say of entries, whatever the kind and the state."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.cli import DONE, USER_MISTAKE
from storage_schemas.store.store import Entry
from tests.support.buckets import local
from tests.support.cache_samples import Cache, leave_run, put, store_of

# ls


def test_ls_lists_every_entry_with_what_its_kind_has(cache: Cache, made: dict[str, Entry]) -> None:
    lines = {cells[1]: cells for cells in cache.lines("ls") if len(cells) > 2}

    def of(name: str) -> list[str]:
        kind, key, *cells = lines[made[name].key]
        assert (kind, key) == (made[name].manifest.kind, made[name].key)
        return [cell for cell in cells if not re.fullmatch(r"\d+ (s|min)", cell)]

    assert len(lines) == len(made) + 1
    assert of("train") == ["7 B", "1,637", "train", "demo"]
    assert of("primary") == ["2.0 kB", "primary", "demo"]
    assert of("senior") == ["7 B", "senior", "demo"]
    assert of("control") == ["7 B", "control", "demo"]
    assert of("train view") == ["7 B", "1,637", "train 3", "demo"]
    assert of("val bits") == ["7 B", "326", "val 0", "senior", "0.691 from bits", "demo"]
    assert of("train bits") == ["7 B", "1,637", "train 3", "primary", "demo"]
    assert of("student") == ["7 B", "student", "demo"]
    assert of("baseline") == ["7 B", "baseline", "demo"]
    assert of("scores of student") == ["7 B", "326", "val", "student", "0.600 quarter", "demo"]
    assert of("scores without") == ["7 B", "326", "val", "senior, no mask", "0.500 quarter", "demo"]
    assert of("unused") == ["7 B", "1,637", "train 3", "primary"]
    assert cache.err == ""


def test_ls_shows_the_figure_that_the_report_leads_with(cache: Cache, made: dict[str, Entry]) -> None:
    path = cache.home / "runs" / "demo" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "evaluate": {"decoder": "dark"}}))
    lines = {cells[1]: cells for cells in cache.lines("ls") if len(cells) > 2}
    assert "0.620 dark" in lines[made["scores of student"].key]
    assert "0.691 from bits" in lines[made["val bits"].key], "of targets it is what the bits alone give"


def test_ls_of_a_kind_lists_that_kind_and_its_total(cache: Cache, made: dict[str, Entry]) -> None:
    lines = cache.lines("ls", "targets")
    assert {cells[1] for cells in lines[1:-2]} == {made[name].key for name in ("val bits", "train bits", "unused")}
    assert lines[-1] == [f"3 entries, 21 B in {cache.home / 'store'}"]


def test_kinds_come_in_the_order_of_the_stages(cache: Cache, made: dict[str, Entry]) -> None:
    kinds = list(dict.fromkeys(row["kind"] for row in cache.json("ls")["entries"]))
    assert kinds == ["instances", "teachers", "views", "targets", "students", "evaluations", "reports"]


def test_ls_as_json_has_every_figure(cache: Cache, made: dict[str, Entry]) -> None:
    rows = {f"{row['kind']}/{row['key']}": row for row in cache.json("ls")["entries"]}
    assert set(rows) == {entry.entry_id for entry in made.values()}
    row = rows[made["val bits"].entry_id]
    assert row.pop("made_at").startswith("20")
    assert row == {
        "kind": "targets",
        "key": made["val bits"].key,
        "size": 7,
        "num_files": 1,
        "instances": 326,
        "view": "val 0",
        "network": "senior",
        "ap": {"from_bits": 0.691, "float_dark": 0.715},
        "decoder": None,
        "experiments": ["demo"],
    }


def test_an_entry_that_several_experiments_use_names_a_few(cache: Cache, made: dict[str, Entry]) -> None:
    for name in ("a", "b", "c", "d"):
        leave_run(cache.home, name, [made["unused"]])
    (line,) = [line for line in cache.lines("ls") if made["unused"].key in line]
    assert line[-1] == "a, b, c and 1 more"


def test_an_empty_home_has_no_entries(cache: Cache) -> None:
    assert cache("ls") == DONE
    assert cache.out == f"0 entries, 0 B in {cache.home / 'store'}\n"
    assert list(cache.home.iterdir()) == []


def test_a_manifest_that_cannot_be_read_is_a_row_and_a_warning(
    cache: Cache, made: dict[str, Entry], caplog: pytest.LogCaptureFixture
) -> None:
    local(made["val bits"].folder.parent / "manifest.json").write_bytes(b"{")
    lines = cache.lines("ls", "targets")
    assert ["targets", made["val bits"].key, "cannot be read"] in lines
    assert lines[-1][0].startswith("2 entries")
    assert f"{made['val bits'].key}/manifest.json is not a manifest" in caplog.text
    assert list(cache.json("ls")["unreadable"]) == [made["val bits"].entry_id]
    assert cache("ls", "views") == DONE
    assert "cannot be read" not in cache.out


@pytest.mark.parametrize(
    ("kind", "recipe", "measured"),
    [
        ("targets", {}, {}),
        ("targets", {"view": 3, "mask": None}, {"AP_from_bits": "high"}),
        ("students", {"epochs": "many"}, {"instances": []}),
        ("evaluations", {"network": "nobody's", "mask": "withheld"}, {"quarter": 3}),
        ("teachers", {"base": "of primary"}, {"dark": {"AP": None}}),
        ("views", {"instances": [], "view": 2}, {"rows": "three"}),
        ("others", {}, {}),
    ],
)
def test_an_entry_of_another_shape_has_blank_cells(
    cache: Cache, kind: str, recipe: dict[str, Any], measured: dict[str, Any]
) -> None:
    entry = put(store_of(cache.home), kind, recipe, measured)
    assert cache("ls") == DONE
    assert entry.key in cache.out
    assert cache("show", entry.key) == DONE


def test_an_experiment_that_cannot_be_understood_is_told(
    cache: Cache, made: dict[str, Entry], caplog: pytest.LogCaptureFixture
) -> None:
    (leave_run(cache.home, "broken", []) / "metrics.json").write_text("{")
    assert cache("ls") == DONE
    assert "The entries of experiment 'broken' are unknown: metrics.json names no entries" in caplog.text


# show


def test_show_says_what_an_entry_is_and_where_it_comes_from(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["train bits"]
    assert cache("show", entry.key[:9]) == DONE
    lines = cache.out.splitlines()
    assert lines[:5] == [
        f"{entry.entry_id}  (primary, train 3)",
        "  size: 7 B in 2 files",
        f"  folder: {entry.folder}",
        f"  payload: {entry.manifest.payload}",
        "  used by: demo",
    ]
    assert lines[5:8] == ["made from", f"  {made['primary'].entry_id}: teacher", f"  {made['train view'].entry_id}: view"]
    assert "    threshold: 0.5" in lines
    assert "  rows: 1637" in lines
    assert any(line.startswith("  host: ") for line in lines)


def test_show_as_json_has_the_whole_manifest(cache: Cache, made: dict[str, Entry]) -> None:
    entry = made["unused"]
    known = cache.json("show", f"targets/{entry.key}")
    for name in ("recipe", "measured", "made"):
        assert known[name] == getattr(entry.manifest, name)
    # sha256 of b"content", by sha256sum.
    sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert known["files"] == {"file": {"size": 7, "sha256": sha256}}
    assert known["experiments"] == []


def test_show_of_what_is_not_there_names_the_next_command(cache: Cache, made: dict[str, Entry]) -> None:
    assert cache("show", "ffffffffffffffff") == USER_MISTAKE
    assert cache.err.startswith("ConfigError: No entry in ")
    assert "python -m pipeline.cache ls" in cache.err


def test_show_of_a_damaged_manifest_says_so(cache: Cache, made: dict[str, Entry]) -> None:
    local(made["val bits"].folder.parent / "manifest.json").write_bytes(b"{")
    assert cache("show", made["val bits"].key) == USER_MISTAKE
    assert cache.err.startswith("CorruptEntryError: ")
    config = cache.home / "runs" / "demo" / "config.resolved.yaml"
    again = f"  Next:    python -m pipeline.run --config {config} --home {cache.home} --stage targets\n"
    assert cache.err.endswith(again), "repair cannot, and nothing need be forced"


def test_numbers_are_shown_in_six_digits_and_given_to_programs_in_all(cache: Cache) -> None:
    measured = {"AP": 0.6699999999999999, "curve": [0.12345678, 1e-5], "bytes": 1234567.5, "people": 12345678}
    entry = put(store_of(cache.home), "evaluations", {"of": 1}, measured)
    assert cache("show", entry.key) == DONE
    for line in ("  AP: 0.67", "  curve: [0.123457, 1e-05]", "  bytes: 1234568", "  people: 12345678"):
        assert line in cache.out.splitlines()
    assert cache.json("show", entry.key)["measured"] == measured


# diff


def test_diff_rounds_no_difference_away(cache: Cache) -> None:
    first, second, third = (put(store_of(cache.home), "views", {"x": x}) for x in (0.1 + 0.2, 0.3, 0.7 - 0.1))
    assert cache.lines("diff", first.key, second.key)[1] == ["x", "0.30000000000000004", "0.3"]
    assert cache.lines("diff", first.key, third.key)[1] == ["x", "0.3", "0.6"]


def test_diff_shows_the_fields_that_differ_as_pairs(cache: Cache, made: dict[str, Entry]) -> None:
    first, second = made["train bits"], made["unused"]
    assert cache("diff", first.key, second.key) == DONE
    assert [line.split() for line in cache.out.splitlines()] == [
        ["field", first.key, second.key],
        ["binarize.threshold", "0.5", "0.4"],
    ]
    known = cache.json("diff", first.key, second.key)
    assert known == {"first": first.entry_id, "second": second.entry_id, "fields": {"binarize.threshold": [0.5, 0.4]}}


def test_diff_of_one_entry_says_so(cache: Cache, made: dict[str, Entry]) -> None:
    entry_id = made["student"].entry_id
    assert cache("diff", entry_id, made["student"].key[:8]) == DONE
    assert cache.out == f"{entry_id} is one entry\n"


def test_diff_of_different_kinds_says_so(cache: Cache, made: dict[str, Entry]) -> None:
    assert cache("diff", made["student"].key, made["val"].key) == DONE
    assert f"{made['student'].entry_id} and {made['val'].entry_id} are of different kinds" in cache.out
