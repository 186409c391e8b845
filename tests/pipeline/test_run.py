"""The whole pipeline on a tiny drawn data set: real Ray, real Zarr, real processes killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage_schemas.formats.targets import read_rows, write_block
from storage_schemas.paths.facts import facts_of
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Entry, Store
from tests.support.buckets import local
from tests.support.small_disk import remount, small_disk

pytestmark = pytest.mark.slow

# 300 images hold about 600 people: three blocks of targets, so that one can be finished and another not.
TINY = {
    "data.embedded.train_images": 300,
    "data.embedded.val_images": 12,
    "crop.size_wh": [64, 64],
    "teachers.primary.network": "hrnet_w8_tiny",
    "teachers.primary.train.epochs": 1,
    "teachers.senior.train.epochs": 1,
    "views.count": 2,
    "distill.student.network": "hrnet_w8_tiny",
    "distill.epochs": 2,
    "distill.schedule": "primary_then_senior",
}
STARTED = "Ray: local cluster with"
"""What the log says when Ray is started."""


def command(home: Path | str, stage: str, *options: str, **changes: object) -> list[str]:
    settings = {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}
    overrides = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    return [sys.executable, "-m", "pipeline.run", "--stage", stage, "--home", str(home), *overrides, *options]


def run(home: Path | str, stage: str, *options: str, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(home, stage, *options, **changes), capture_output=True, text=True, timeout=1100, check=False)


def done(home: Path, stage: str, *options: str, **changes: object) -> str:
    result = run(home, stage, *options, **changes)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def metrics(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / "demo" / "metrics.json").read_text())
    return found


def payloads(home: Path, kind: str) -> dict[str, str]:
    manifests = (home / "store" / kind).glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["payload"] for path in manifests}


def kill_when(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """SIGKILL the driver and everything it started as soon as ``condition`` holds."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(home: Path, stage: str, **changes: object) -> subprocess.Popen[bytes]:
    # A session of its own: Ray's processes belong to it, and none of the machine's others.
    return subprocess.Popen(
        command(home, stage, **changes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which all stages have run."""
    home = tmp_path_factory.mktemp("finished") / "home"
    done(home, "all")
    return home


def without(home: Path, copy: Path, *kinds: str) -> Path:
    """A copy of a home that lacks the entries of some kinds."""
    shutil.copytree(home, copy, ignore=lambda folder, names: kinds if Path(folder).name == "store" else ())
    return copy


def test_all_stages_leave_what_the_documents_promise(finished: Path) -> None:
    found = metrics(finished)
    run_dir = finished / "runs" / "demo"
    assert {path.name for path in run_dir.iterdir()} >= {"config.resolved.yaml", "report.html", "metrics.json", "tensorboard"}
    for role in ("primary", "senior"):
        assert -1 <= found["teachers"][role]["AP"] <= 1
        assert found["targets"][role]["bytes_per_view"] > 0
        # Two views: the first epoch reads the primary's of view 1, the second the senior's of view 2; and both see the
        # validation set. Nothing else is run.
        people = found["data"]["train"]["instances"] + found["data"]["val"]["instances"]
        assert found["this_run"]["teacher_forwards"][role] == people
    assert {"student", "baseline", "protocol"} <= set(found["evaluate"])
    assert set(found["seconds"]) == {"prepare", "teachers", "targets", "distill", "evaluate", "report"}


def test_the_figures_lead_to_every_entry_and_to_the_weights(finished: Path) -> None:
    found = metrics(finished)
    there = {f"{path.parent.parent.name}/{path.parent.name}" for path in (finished / "store").glob("*/*/manifest.json")}
    assert there == set(found["entries"].values())
    assert Path(found["weights"]).is_file()
    assert found["weights"].startswith(f"{finished}/store/{found['entries']['student']}/")
    assert found["weights"] in done(finished, "distill")


def test_the_joints_that_are_seen_are_told_of_both_sets(finished: Path) -> None:
    for role, view in (("primary", 1), ("senior", 2)):
        told = metrics(finished)["targets"][role]
        for split, number in (("val", 0), ("train", view)):
            entry = entry_of(finished, f"targets of the {role} teacher, {split} view {number}")
            peaks = np.array(read_rows(entry.fetch(), "peak"))
            assert told[f"joints_seen_{split}"] == pytest.approx((peaks >= np.float16(0.2)).mean(), abs=1e-4)


def test_a_page_of_other_settings_does_not_stay_beside_the_new_figures(finished: Path, tmp_path: Path) -> None:
    home = without(finished, tmp_path / "home")
    shown = home / "runs" / "demo" / "report.html"
    assert f"{shown} was of other settings" in done(home, "evaluate", evaluate__decoder="dark")
    assert not shown.exists()
    assert str(shown) in done(home, "report")
    assert shown.exists()


def test_nothing_is_unused_since_what_it_was_made_from_is_gone(finished: Path, tmp_path: Path) -> None:
    """Another's hand, or a disk that is not there: a run of a stage before cannot know what the later ones will find."""
    home = without(finished, tmp_path / "home")
    there = json.loads(cache(home, "ls", "--json").stdout)["entries"]
    assert all(entry["experiments"] == ["demo"] for entry in there)
    teacher = entry_of(home, "primary teacher").entry_id
    shutil.move(home / "store" / teacher, tmp_path / "teacher")
    assert "in use until all stages have run" in done(home, "prepare")
    assert "evaluate" not in metrics(home), "these figures know nothing of a student"
    left = json.loads(cache(home, "ls", "--json").stdout)["entries"]
    assert {entry["key"] for entry in left} == {entry["key"] for entry in there} - {teacher.partition("/")[2]}
    assert all(entry["experiments"] == ["demo"] for entry in left)
    assert json.loads(cache(home, "gc", "--dry-run", "--min-age", "0", "--json").stdout)["removed"] == []
    assert json.loads(cache(home, "verify", "--json").stdout)["missing"]["demo"]["entries"] == [teacher]
    shutil.move(tmp_path / "teacher", home / "store" / teacher)
    assert "stays in use" not in done(home, "prepare")
    assert "evaluate" in metrics(home)
    assert "earlier" not in metrics(home)
    assert (home / "runs" / "demo" / "report.html").exists(), "it is back"
    student = entry_of(home, "student")
    student.path("weights.safetensors").write_bytes(b"")
    result = run(home, "prepare")
    assert result.returncode == 2, "whoever is told where the weights are takes them for whole"
    assert f"Entry {student.entry_id}: weights.safetensors has 0 bytes where" in result.stderr
    assert f" --stage distill --force {student.entry_id}\n" in result.stderr


def test_a_second_run_finds_every_entry_and_runs_no_teacher(finished: Path) -> None:
    before = {kind.name: payloads(finished, kind.name) for kind in (finished / "store").iterdir()}
    output = done(finished, "all")
    assert STARTED not in output, "nothing to do needs no cluster"
    assert metrics(finished)["this_run"] == {"seconds": {}, "teacher_forwards": {"primary": 0, "senior": 0}}
    assert len(metrics(finished)["seconds"]) == 6, "what each stage took when it ran stays"
    assert {kind.name: payloads(finished, kind.name) for kind in (finished / "store").iterdir()} == before


def stages_to_make(plan: list[str]) -> set[str]:
    return {line.split()[0] for line in plan if line.split()[1:2] in (["miss"], ["stale"])}


def test_a_dry_run_names_the_field_and_what_is_made_again(finished: Path) -> None:
    threshold = done(finished, "all", "--dry-run", binarize__threshold=0.4).splitlines()
    assert stages_to_make(threshold) == {"targets", "distill", "evaluate", "report"}
    assert any("binarize.threshold: 0.5 -> 0.4" in line for line in threshold)
    student = done(finished, "all", "--dry-run", distill__lr=0.001).splitlines()
    assert stages_to_make(student) == {"distill", "evaluate", "report"}
    assert any("distill.lr: 0.002 -> 0.001" in line for line in student)


def test_force_makes_one_stage_again(finished: Path) -> None:
    def made() -> dict[str, str]:
        return {path.parent.name: path.read_text() for path in (finished / "store").glob("*/*/manifest.json")}

    before = made()
    assert STARTED in done(finished, "evaluate", "--force")
    changed = {key for key, text in made().items() if before[key] != text}
    kinds = {path.parent.parent.name for path in (finished / "store").glob("*/*/manifest.json") if path.parent.name in changed}
    assert kinds == {"evaluations"}
    assert len(changed) == 4, "student and baseline, on the validation set and on held-out people"


def test_a_killed_targets_stage_goes_on_and_ends_with_the_same_payload(finished: Path, tmp_path: Path) -> None:
    home = without(finished, tmp_path / "home", "targets", "views", "students", "evaluations", "reports")
    done(home, "teachers")

    def some_parts() -> bool:
        return 0 < len(list((home / "store" / "targets").glob("*/*/block-*.part.json"))) < 4

    kill_when(start(home, "targets"), some_parts)
    assert not payloads(home, "targets"), "killed before anything was committed"
    output = done(home, "targets")
    assert "finished parts of an earlier run" in output
    assert payloads(home, "targets") == payloads(finished, "targets")
    assert payloads(home, "views") == payloads(finished, "views")


def test_a_killed_distillation_repeats_at_most_one_epoch_and_ends_the_same(finished: Path, tmp_path: Path) -> None:
    """Also beside a baseline that is there, with which it would have shared the processors."""
    home = without(finished, tmp_path / "home")
    student, scores = entry_of(home, "student"), entry_of(home, "AP of the primary teacher on the validation set")
    for gone in (student, scores):
        shutil.rmtree(local(gone.folder).parent)

    def a_checkpoint() -> bool:
        return any((home / "store" / student.entry_id).glob("*/epoch-00000.part.json"))

    kill_when(start(home, "distill"), a_checkpoint)
    told = done(home, "distill")
    assert "finished parts of an earlier run" in told
    [line] = [line for line in told.splitlines() if " AP: " in line]
    assert " ST 0." in line
    assert "PT" not in line, "nobody has scored that one again"
    again, unbroken = entry_of(home, "student"), entry_of(finished, "student")
    assert again.content == unbroken.content
    assert again.manifest.made["threads_per_worker"] == unbroken.manifest.made["threads_per_worker"]
    curves = [[json.loads(line) for line in each.path("metrics.jsonl").read_text().splitlines()] for each in (again, unbroken)]
    told_losses, losses = ([(line["epoch"], line["loss"]) for line in curve if "loss" in line] for curve in curves)
    assert told_losses == losses


@pytest.mark.long
@pytest.mark.parametrize("stage", ["targets", "distill"])
def test_a_disk_that_fills_up_loses_nothing_and_the_same_command_goes_on(finished: Path, tmp_path: Path, stage: str) -> None:
    kinds = {"targets": ["targets", "views", "students"], "distill": ["students"]}[stage]
    roomy = "size=2g"
    with small_disk(tmp_path / "disk", roomy):
        home = without(finished, tmp_path / "disk" / "home", *kinds, "evaluations", "reports")
        made = sum(
            sum(entry.manifest.size for entry in Store(LocalPath(finished) / "store").entries(kind)) for kind in kinds[:1]
        )
        there = {kind.name: payloads(home, kind.name) for kind in (home / "store").iterdir()}
        remount(tmp_path / "disk", f"size={shutil.disk_usage(tmp_path / 'disk').used + made // 2}")
        # Ray Train would try again, and find the disk as full.
        failed = run(home, stage, cluster__max_failures=0)
        assert failed.returncode == 2, failed.stdout + failed.stderr
        assert "No space left on device" in failed.stderr
        assert "the same command goes on" in failed.stderr
        assert "Traceback" not in failed.stderr
        found = [entry for kind in there for entry in Store(LocalPath(home) / "store").entries(kind)]
        assert [problem for entry in found for problem in entry.problems()] == []
        assert {entry_id: payloads(home, entry_id) for entry_id in there} == there
        remount(tmp_path / "disk", roomy)
        done(home, stage)
        assert payloads(home, kinds[0]).keys() == payloads(finished, kinds[0]).keys()
        if stage == "targets":
            assert payloads(home, "targets") == payloads(finished, "targets")
            assert payloads(home, "views") == payloads(finished, "views")


@pytest.mark.long
def test_stored_crops_serve_all_stages_and_a_damaged_one_is_found_before_the_first_step(tmp_path: Path) -> None:
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
    assert len(shards) == 2, "one for the training people and one for the validation set"
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    refused = run(home, "distill", "--force", **small)
    assert refused.returncode == 2
    assert "windows-00000-000.jpegs does not match its sha256" in refused.stderr
    assert "--stage prepare --force" in refused.stderr
    done(home, "prepare", "--force", **small)
    done(home, "distill", **small)
    assert payloads(home, "students").keys() == made.keys(), "the same crops again, so nothing that was learned is lost"


def cache(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cache", *words, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def entry_of(home: Path, title: str) -> Entry:
    kind, _, key = metrics(home)["entries"][title].partition("/")
    (found,) = [entry for entry in Store(LocalPath(home) / "store").entries(kind) if entry.key == key]
    return found


def test_damaged_shards_are_made_again_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    home = without(finished, tmp_path / "home")
    crops, targets = entry_of(home, "train view 1"), entry_of(home, "targets of the primary teacher, train view 1")
    flipped = bytearray(targets.path("bits/c/1/0").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    targets.path("bits/c/1/0").write_bytes(flipped)
    targets.path("peak/zarr.json").write_bytes(b"")
    crops.path("affine/c/2/0/0").unlink()
    untouched = targets.path("bits/c/0/0").stat().st_mtime_ns
    # Zarr would read the lost rows as zeros, and a teacher would be shown crops of nothing.
    refused = run(home, "targets", binarize__threshold=0.4)
    assert refused.returncode == 2
    assert f"Next:    python -m pipeline.cache repair {crops.entry_id} --home {home}" in refused.stderr
    before = payloads(home, "students")
    refused = run(home, "distill", "--force")
    assert refused.returncode == 2
    assert payloads(home, "students") == before, "nothing is taken away that could not be made again"
    assert f"Next:    python -m pipeline.cache repair {crops.entry_id} --home {home}" in refused.stderr
    refused = cache(home, "repair", targets.entry_id)
    assert (refused.returncode, f"repair {crops.entry_id}" in refused.stderr) == (2, True), refused.stderr
    for entry in (crops, targets):
        repaired = cache(home, "repair", entry.key)
        assert repaired.returncode == 0, repaired.stderr
        assert entry.problems() == []
    assert repaired.stdout.splitlines() == ["bits/c/1/0", "peak/zarr.json", f"{targets.entry_id}: 2 files recomputed"]
    assert targets.path("bits/c/0/0").stat().st_mtime_ns == untouched
    assert not list((home / "store").rglob("repair-*")), "nothing is left"
    assert cache(home, "verify").returncode == 0


def test_a_sample_tells_the_bits_that_a_teacher_does_not_give(finished: Path, tmp_path: Path) -> None:
    """All bits of the noses are turned over, with a manifest that says so: no file is damaged, and yet the bits are not its."""
    home = without(finished, tmp_path / "home")
    title = "targets of the senior teacher, val view 0"
    entry = entry_of(home, title)
    truth = json.loads(cache(home, "verify", "--sample", "1000", entry.entry_id, "--json").stdout)[entry.entry_id]
    people = entry.measured["rows"]
    assert (truth["rows"], truth["maps"], truth["bits"]) == (people, people * 17, people * 17 * 16 * 16)
    assert truth["differing"] == truth["differing_maps"] == 0
    bits = np.array(read_rows(local(entry.folder), "bits"), np.uint8)
    bits[:, : 16 * 16 // 8] ^= 255
    write_block(local(entry.folder), 0, {"bits": bits})
    files = {name: facts_of(entry.path(name)) for name in entry.manifest.files}
    local(entry.folder.parent / "manifest.json").write_bytes(replace(entry.manifest, files=files).encode())
    assert cache(home, "verify", entry.entry_id).returncode == 0
    sample = json.loads(cache(home, "verify", "--sample", "10", entry.entry_id, "--json").stdout)[entry.entry_id]
    assert (sample["rows"], sample["differing_maps"], sample["differing"]) == (10, 10, 10 * 16 * 16)


@pytest.mark.parametrize("home", ["relative/home", "ftp://server/home"])
def test_a_home_that_later_jobs_cannot_find_is_refused(home: str) -> None:
    result = run(home, "prepare")
    assert result.returncode == 2
    assert "an absolute path" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file", "prepare")
    assert result.returncode == 2
    assert "cannot be made" in result.stderr


def test_a_stage_without_its_inputs_names_the_command_that_makes_them(tmp_path: Path) -> None:
    result = run(tmp_path / "home", "distill")
    assert result.returncode == 2
    assert "--stage all" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "home").exists()


def test_a_file_that_a_late_stage_needs_is_missed_before_any_work(tmp_path: Path) -> None:
    result = run(tmp_path / "home", "all", evaluate__boxes=str(tmp_path / "boxes.json"))
    assert result.returncode == 2
    assert f"{tmp_path / 'boxes.json'} (evaluate.boxes) is not there" in result.stderr
    assert not (tmp_path / "home" / "store").exists()


def test_a_run_that_is_told_to_end_says_how_things_stand(finished: Path, tmp_path: Path) -> None:
    """As by ``ray job stop``, a container's end or a batch system."""
    home = without(finished, tmp_path / "home", "targets", "students", "evaluations", "reports")
    stopped = subprocess.Popen(command(home, "targets"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert stopped.stderr is not None
    lines = iter(stopped.stderr.readline, "")
    assert any(STARTED in line for line in lines)
    stopped.terminate()
    _, rest = stopped.communicate(timeout=120)
    assert stopped.returncode == 1
    assert rest.splitlines()[-1].startswith("Interrupted: what is finished is kept")
    assert "SIGTERM" not in rest
