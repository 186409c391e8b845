"""The whole pipeline on a tiny drawn data set: real Ray, real Zarr, real processes killed.

One run of all stages makes the home ``finished``. Tests that change something work on a copy of it. Commands run in this
process on the warm Ray; what is to be killed runs in a process of its own, with a Ray of its own.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from storage_schemas.formats.targets import read_rows, write_block
from storage_schemas.paths.facts import facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Store
from tests.support.buckets import local
from tests.support.small_disk import remount, small_disk
from tests.support.store_samples import entries_of
from tests.support.whole_runs import cache, copy_without, done, entry_of, kill_when, metrics, payloads, run, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("warm"),
]


@pytest.fixture
def home(finished: LocalPath, tmp_path: LocalPath) -> LocalPath:
    """A copy of ``finished`` that the test may change."""
    return copy_without(finished, tmp_path / "home")


# What a run leaves


def test_all_stages_leave_what_the_documents_promise(finished: LocalPath) -> None:
    found = metrics(finished)
    run_dir = finished / "runs" / "demo"
    assert {path.name for path in run_dir.iterdir()} >= {"config.resolved.yaml", "report.html", "metrics.json", "tensorboard"}
    for role in ("primary", "senior"):
        assert -1 <= found["teachers"][role]["AP"] <= 1
        assert found["targets"][role]["bytes_per_view"] > 0
        # The first epoch reads the primary's targets of view 1, the second the senior's of view 2; both teachers also see the
        # validation set. No other view is computed.
        instances = found["data"]["train"]["instances"] + found["data"]["val"]["instances"]
        assert found["this_run"]["teacher_forwards"][role] == instances
    assert {"student", "baseline", "protocol"} <= set(found["evaluate"])
    assert set(found["seconds"]) == {"prepare", "teachers", "targets", "distill", "evaluate", "report"}


def test_the_figures_lead_to_every_entry_and_to_the_weights(finished: LocalPath) -> None:
    found = metrics(finished)
    stored = {f"{path.parent.parent.name}/{path.parent.name}" for path in (finished / "store").glob("*/*/manifest.json")}
    assert stored == set(found["entries"].values())
    assert LocalPath(found["weights"]).is_file()
    assert found["weights"].startswith(f"{finished}/store/{found['entries']['student']}/")
    assert found["weights"] in done(finished, "distill").err


def test_the_share_of_joints_with_a_peak_is_given_for_both_sets(finished: LocalPath) -> None:
    for role, view in (("primary", 1), ("senior", 2)):
        figures = metrics(finished)["targets"][role]
        for split, number in (("val", 0), ("train", view)):
            entry = entry_of(finished, f"targets of the {role} teacher, {split} view {number}")
            peaks = np.array(read_rows(entry.fetch(), "peak"))
            assert figures[f"joints_seen_{split}"] == pytest.approx((peaks >= np.float16(0.2)).mean(), abs=1e-4)


# Later runs


def test_a_second_run_finds_every_entry_and_runs_no_teacher(finished: LocalPath) -> None:
    before = {kind.name: payloads(finished, kind.name) for kind in (finished / "store").iterdir()}
    assert not done(finished, "all").used_cluster
    assert metrics(finished)["this_run"] == {"seconds": {}, "teacher_forwards": {"primary": 0, "senior": 0}}
    assert len(metrics(finished)["seconds"]) == 6, "the seconds of the first run stay"
    assert {kind.name: payloads(finished, kind.name) for kind in (finished / "store").iterdir()} == before


def stages_to_compute(plan: str) -> set[str]:
    return {line.split()[0] for line in plan.splitlines() if line.split()[1:2] in (["miss"], ["stale"])}


def test_a_dry_run_names_the_changed_setting_and_the_stages_that_depend_on_it(finished: LocalPath) -> None:
    threshold = done(finished, "all", "--dry-run", binarize__threshold=0.4).out
    assert stages_to_compute(threshold) == {"targets", "distill", "evaluate", "report"}
    assert "binarize.threshold: 0.5 -> 0.4" in threshold
    student = done(finished, "all", "--dry-run", distill__lr=0.001).out
    assert stages_to_compute(student) == {"distill", "evaluate", "report"}
    assert "distill.lr: 0.002 -> 0.001" in student


def test_force_recomputes_one_stage_only(home: LocalPath) -> None:
    def manifests() -> dict[str, str]:
        paths = (home / "store").glob("*/*/manifest.json")
        return {f"{path.parent.parent.name}/{path.parent.name}": path.read_text() for path in paths}

    before = manifests()
    assert done(home, "evaluate", "--force").used_cluster
    changed = [entry_id for entry_id, text in manifests().items() if before[entry_id] != text]
    assert {entry_id.partition("/")[0] for entry_id in changed} == {"evaluations"}
    assert len(changed) == 4, "student and baseline, each on the validation set and on held-out instances"


def test_the_report_of_other_settings_is_removed_until_it_is_rebuilt(home: LocalPath) -> None:
    shown = home / "runs" / "demo" / "report.html"
    assert str(shown) in done(home, "evaluate", evaluate__decoder="dark").err
    assert not shown.exists()
    done(home, "report")
    assert shown.exists()


def test_while_an_upstream_entry_is_missing_no_entry_of_the_experiment_is_unused(home: LocalPath, tmp_path: LocalPath) -> None:
    """A run of an early stage cannot compute the keys of later stages while a teacher is missing."""
    before = json.loads(cache(home, "ls", "--json").out)["entries"]
    assert all(entry["experiments"] == ["demo"] for entry in before)
    teacher = entry_of(home, "primary teacher").entry_id
    shutil.move(home / "store" / teacher, tmp_path / "teacher")
    done(home, "prepare")
    assert "evaluate" not in metrics(home), "these figures include no student"
    left = json.loads(cache(home, "ls", "--json").out)["entries"]
    assert {entry["key"] for entry in left} == {entry["key"] for entry in before} - {teacher.partition("/")[2]}
    assert all(entry["experiments"] == ["demo"] for entry in left)
    assert json.loads(cache(home, "gc", "--dry-run", "--min-age", "0", "--json").out)["removed"] == []
    assert json.loads(cache(home, "verify", "--json").out)["missing"]["demo"]["entries"] == [teacher]
    shutil.move(tmp_path / "teacher", home / "store" / teacher)
    done(home, "prepare")
    assert "evaluate" in metrics(home)
    assert "earlier" not in metrics(home)
    assert (home / "runs" / "demo" / "report.html").exists(), "the report is restored"


def test_the_path_of_damaged_weights_is_not_printed(home: LocalPath) -> None:
    student = entry_of(home, "student")
    student.path("weights.safetensors").write_bytes(b"")
    refused = run(home, "prepare")
    assert refused.status == 2
    assert f"--stage distill --force {student.entry_id}\n" in refused.err
    assert "weights of the student" not in refused.err


# Runs that are killed or stopped


def test_a_killed_targets_stage_continues_and_ends_with_the_same_payload(finished: LocalPath, tmp_path: LocalPath) -> None:
    home = copy_without(finished, tmp_path / "home", "targets", "views", "students", "evaluations", "reports")

    def parts() -> list[LocalPath]:
        return list((home / "store" / "targets").glob("*/*/block-*.part.json"))

    kill_when(start(home, "targets"), lambda: 0 < len(parts()) < 4)
    assert not payloads(home, "targets"), "killed before anything was committed"
    files = {(part.parent, name) for part in parts() for name in json.loads(part.read_text())["files"]}
    written = {(folder.parent.name, name): (folder / name).stat().st_mtime_ns for folder, name in files}
    done(home, "targets")
    entries = {entry.key: entry for entry in entries_of(Store(home / "store"), "targets")}
    shards = {(key, name): time for (key, name), time in written.items() if name in entries[key].manifest.files}
    kept = {(key, name): entries[key].path(name).stat().st_mtime_ns for key, name in shards}
    assert kept == shards != {}, "finished blocks are not computed again"
    assert payloads(home, "targets") == payloads(finished, "targets")
    assert payloads(home, "views") == payloads(finished, "views")


def test_a_killed_distillation_repeats_at_most_one_epoch_and_ends_the_same(home: LocalPath, finished: LocalPath) -> None:
    """Also beside a finished baseline, with which the student would have shared the processors."""
    student, scores = entry_of(home, "student"), entry_of(home, "AP of the primary teacher on the validation set")
    for entry in (student, scores):
        shutil.rmtree(local(entry.folder).parent)

    def checkpoints() -> list[LocalPath]:
        return list((home / "store" / student.entry_id).glob("*/epoch-00000.part.json"))

    kill_when(start(home, "distill"), lambda: len(checkpoints()) > 0)
    (before,) = (path.with_name("epoch-00000.jsonl") for path in checkpoints())
    first_epoch = json.loads(before.read_text().splitlines()[-1])
    ran = done(home, "distill")
    (line,) = [line for line in ran.err.splitlines() if "AP: " in line]
    assert " ST 0." in line
    assert "PT" not in line, "the primary teacher's score was deleted, and this stage does not compute it"
    again, unbroken = entry_of(home, "student"), entry_of(finished, "student")
    assert again.content == unbroken.content
    assert again.manifest.made["threads_per_worker"] == unbroken.manifest.made["threads_per_worker"]
    curves = [[json.loads(line) for line in each.path("metrics.jsonl").read_text().splitlines()] for each in (again, unbroken)]
    assert first_epoch in curves[0], "the first epoch is not trained again"
    losses = [[(line["epoch"], line["loss"]) for line in curve if "loss" in line] for curve in curves]
    assert losses[0] == losses[1]


def test_sigterm_stops_a_run_as_ctrl_c_does(finished: LocalPath, tmp_path: LocalPath) -> None:
    """``ray job stop``, a container and a batch system send it."""
    home = copy_without(finished, tmp_path / "home", "targets", "students", "evaluations", "reports")
    stopped = start(home, "targets", stderr=subprocess.PIPE)
    assert stopped.stderr is not None
    assert any("Ray: local cluster with" in line for line in iter(stopped.stderr.readline, "")), "Ray was started"
    stopped.send_signal(signal.SIGTERM)
    _, rest = stopped.communicate(timeout=120)
    assert stopped.returncode == 1
    assert rest.splitlines()[-1].startswith("Interrupted: ")
    assert "SIGTERM" not in rest


@pytest.mark.long
@pytest.mark.parametrize("stage", ["targets", "distill"])
def test_after_a_full_disk_the_same_command_continues(finished: LocalPath, tmp_path: LocalPath, stage: str) -> None:
    kinds = {"targets": ["targets", "views", "students"], "distill": ["students"]}[stage]
    roomy = "size=2g"
    with small_disk(tmp_path / "disk", roomy):
        home = copy_without(finished, tmp_path / "disk" / "home", *kinds, "evaluations", "reports")
        needed = sum(sum(entry.manifest.size for entry in entries_of(Store(finished / "store"), kind)) for kind in kinds[:1])
        before = {kind.name: payloads(home, kind.name) for kind in (home / "store").iterdir()}
        remount(tmp_path / "disk", f"size={shutil.disk_usage(tmp_path / 'disk').used + needed // 2}")
        # Without retries: Ray Train would find the disk as full again.
        failed = run(home, stage, cluster__max_failures=0)
        assert failed.status == 2, failed.out + failed.err
        assert "No space left on device" in failed.err
        assert "Traceback" not in failed.err
        found = [entry for kind in before for entry in entries_of(Store(home / "store"), kind)]
        assert [problem for entry in found for problem in entry.damaged()] == []
        assert {kind: payloads(home, kind) for kind in before} == before
        remount(tmp_path / "disk", roomy)
        done(home, stage)
        assert payloads(home, kinds[0]).keys() == payloads(finished, kinds[0]).keys()
        if stage == "targets":
            assert payloads(home, "targets") == payloads(finished, "targets")
            assert payloads(home, "views") == payloads(finished, "views")


# Damage


@pytest.mark.long
def test_stored_crops_serve_all_stages_and_damage_is_found_before_the_first_step(tmp_path: LocalPath) -> None:
    home = tmp_path / "home"
    small: dict[str, object] = {
        "prepare__crops": True,
        "data__embedded__train_images": 60,
        "teachers__senior__control": False,
        "distill__baseline": False,
        "distill__epochs": 1,
        "distill__schedule": "primary",
        "views__count": 1,
    }
    done(home, "all", **small)
    made = payloads(home, "students")
    shards = list((home / "store" / "instances").glob("*/*/windows-*.jpegs"))
    assert len(shards) == 2, "one for the training set and one for the validation set"
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    refused = run(home, "distill", "--force", **small)
    assert refused.status == 2
    assert "windows-00000-000.jpegs" in refused.err
    assert "--stage prepare --force" in refused.err
    done(home, "prepare", "--force", **small)
    done(home, "distill", **small)
    assert payloads(home, "students").keys() == made.keys(), "the crops are the same again, so the student is still valid"


def test_repair_rebuilds_damaged_shards_and_nothing_else(home: LocalPath) -> None:
    crops, targets = entry_of(home, "train view 1"), entry_of(home, "targets of the primary teacher, train view 1")
    flipped = bytearray(targets.path("bits/c/1/0").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    targets.path("bits/c/1/0").write_bytes(flipped)
    targets.path("peak/zarr.json").write_bytes(b"")
    crops.path("affine/c/1/0/0").unlink()
    untouched = targets.path("bits/c/0/0").stat().st_mtime_ns
    # Zarr reads lost rows as zeros: without a check the teacher would be fed empty crops.
    refused = run(home, "targets", binarize__threshold=0.4)
    assert (refused.status, f" repair {crops.entry_id} " in refused.err) == (2, True), refused.err
    before = payloads(home, "students")
    refused = run(home, "distill", "--force")
    assert (refused.status, f" repair {crops.entry_id} " in refused.err) == (2, True), refused.err
    assert payloads(home, "students") == before, "no student is deleted that could not be trained again"
    refused = cache(home, "repair", targets.entry_id)
    assert (refused.status, f" repair {crops.entry_id}" in refused.err) == (2, True), refused.err
    for entry in (crops, targets):
        repaired = cache(home, "repair", entry.key)
        assert repaired.status == 0, repaired.err
        assert entry.damaged() == {}
    assert repaired.out.splitlines()[:2] == ["bits/c/1/0", "peak/zarr.json"]
    assert targets.path("bits/c/0/0").stat().st_mtime_ns == untouched
    assert not list((home / "store").rglob("repair-*")), "no temporary file is left"
    assert cache(home, "verify").status == 0


def test_verify_sample_finds_bits_that_the_teacher_does_not_give(home: LocalPath) -> None:
    """The bits of all noses are inverted, and the manifest agrees: no file is damaged, only the teacher can tell."""
    entry = entry_of(home, "targets of the senior teacher, val view 0")
    truth = json.loads(cache(home, "verify", "--sample", "1000", entry.entry_id, "--json").out)[entry.entry_id]
    rows = entry.measured["rows"]
    assert (truth["rows"], truth["maps"], truth["bits"]) == (rows, rows * 17, rows * 17 * 16 * 16)
    assert truth["differing"] == truth["differing_maps"] == 0
    bits = np.array(read_rows(local(entry.folder), "bits"), np.uint8)
    bits[:, : 16 * 16 // 8] ^= 255
    write_block(local(entry.folder), 0, {"bits": bits})
    files = {name: facts_of(entry.path(name)) for name in entry.manifest.files}
    local(entry.folder.parent / "manifest.json").write_bytes(replace(entry.manifest, files=files).encode())
    assert cache(home, "verify", entry.entry_id).status == 0
    sample = json.loads(cache(home, "verify", "--sample", "10", entry.entry_id, "--json").out)[entry.entry_id]
    assert (sample["rows"], sample["differing_maps"], sample["differing"]) == (10, 10, 10 * 16 * 16)


# What is refused before any work


@pytest.mark.parametrize("home", ["relative/home", "ftp://server/home"])
def test_a_home_that_later_jobs_cannot_find_is_refused(home: str) -> None:
    refused = run(home, "prepare")
    assert (refused.status, refused.err.partition(":")[0]) == (2, "StoreError")
    assert home in refused.err


def test_a_home_that_is_a_file_is_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "file").write_text("")
    refused = run(tmp_path / "file", "prepare")
    assert (refused.status, refused.err.partition(":")[0]) == (2, "StoreError")


def test_a_stage_without_its_inputs_names_the_command_that_makes_them(tmp_path: LocalPath) -> None:
    refused = run(tmp_path / "home", "distill")
    assert (refused.status, refused.err.partition(":")[0]) == (2, "MissingInputError")
    assert "--stage all" in refused.err
    assert not (tmp_path / "home").exists()


def test_a_file_that_a_late_stage_needs_is_checked_before_any_work(tmp_path: LocalPath) -> None:
    refused = run(tmp_path / "home", "all", evaluate__boxes=str(tmp_path / "boxes.json"))
    assert (refused.status, str(tmp_path / "boxes.json") in refused.err) == (2, True)
    assert not (tmp_path / "home" / "store").exists()
