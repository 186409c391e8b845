"""Repair of views and targets that the pipeline has made: real Ray, a real teacher, real processes killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.config.load import resolved_yaml
from stages.base import Context, TargetsStep
from stages.distributed.run_tasks import run_tasks
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from stages.settings import Role
from stages.targets import repair
from stages.targets import stage as targets
from stages.teachers import teacher_step
from stages.training.loop import WEIGHTS
from storage_schemas.errors import CorruptEntryError, MissingInputError
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.targets import read_rows, write_block
from storage_schemas.paths.facts import facts_of
from storage_schemas.store.store import Draft, Entry
from tests.support.buckets import local
from tests.support.errors import suggested
from tests.support.step_samples import make_context

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")]

TINY = (
    "data.embedded.train_images=16",
    "data.embedded.val_images=8",
    "crop.size_wh=[64, 64]",
    "teachers.primary.network=hrnet_w8_small",
    "binarize.min_peak=0",
    "views.count=1",
    "distill.schedule=primary",
)
ROLES: tuple[Role, Role] = ("primary", "senior")


def _connected() -> None:
    """The warm Ray is connected."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Path:
    """A home with untrained teachers and their targets."""
    home = tmp_path_factory.mktemp("made") / "home"
    context = make_context(home, *TINY)
    graph.make_stage(context, "prepare", force=None, connect=_connected)
    for number, role in enumerate(ROLES):
        _leave_teacher(context, role, seed=number)
    graph.make_stage(context, "targets", force=None, connect=_connected)
    return home


def _leave_teacher(context: Context, role: Role, *, seed: int) -> None:
    step, is_senior = teacher_step(context, role), role == "senior"
    spec = NetworkSpec(network="hrnet_w8_small", senior=is_senior)
    network = load_network(spec, size_wh=(64, 64), num_keypoints=17, generator=torch.Generator().manual_seed(seed))
    with context.store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        save_weights(draft.work / WEIGHTS, network, {"network": "hrnet_w8_small"})
        held = {"checkpoint" if is_senior else "weights": WEIGHTS}
        draft.commit([WEIGHTS], measured={"network": "hrnet_w8_small", "senior": is_senior, "content": role, **held})


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of the home."""
    return shutil.copytree(made, tmp_path / "home")


def _context(home: Path, *overrides: str) -> Context:
    return make_context(home, *TINY, *overrides)


def _bits(context: Context) -> tuple[TargetsStep, Entry]:
    """The primary's targets of the training set."""
    step = targets.target_step(context, "primary", "train", 1, context.settings.binarize)
    return step, context.need(step)


def _damage(entry: Entry, *names: str) -> None:
    for name in names:
        data = bytearray(entry.path(name).read_bytes())
        data[len(data) // 2] ^= 1
        entry.path(name).write_bytes(data)
    assert list(entry.damaged()) == sorted(names)


def _is_whole(entry: Entry) -> bool:
    beside = [path.name for path in local(entry.folder).iterdir() if path.name.startswith("repair-")]
    return entry.damaged() == {} and beside == []


def test_damaged_views_and_bits_of_the_validation_set_are_recomputed(home: Path) -> None:
    """Their scores are in the manifest, which does not change."""
    context = _context(home)
    crops = targets.view_step(context, "val", 0)
    bits = targets.target_step(context, "senior", "val", 0, context.settings.binarize)
    for step, shard in ((crops, "affine/c/0/0/0"), (bits, "bits/c/0/0")):
        entry = context.need(step)
        before = (local(entry.folder).parent / "manifest.json").read_bytes()
        entry.path(shard).unlink()
        repair.repair(context, step, [shard], connect=_connected)
        assert _is_whole(entry)
        assert (local(entry.folder).parent / "manifest.json").read_bytes() == before


def test_bits_are_not_recomputed_from_a_damaged_view(home: Path) -> None:
    context = _context(home)
    step, entry = _bits(context)
    crops = context.need(targets.view_step(context, "train", 1))
    _damage(entry, "bits/c/0/0")
    _damage(crops, "flip/c/0")
    with pytest.raises(CorruptEntryError, match=crops.entry_id):
        repair.repair(context, step, list(entry.damaged()), connect=_connected)
    assert list(entry.damaged()) == ["bits/c/0/0"]
    assert not list(local(entry.folder).glob("repair-*"))


def test_recomputed_files_that_differ_are_not_restored_and_the_error_counts_the_others(home: Path) -> None:
    """The manifest has other peaks than this machine computes, as if another kind of device had made them."""
    context = _context(home)
    step, entry = _bits(context)
    peaks = np.array(read_rows(entry.fetch(), "peak")) + np.float16(0.25)
    write_block(local(entry.folder), 0, {"peak": peaks.astype(np.float16)})
    files = {name: facts_of(entry.path(name)) for name in entry.manifest.files}
    manifest = replace(entry.manifest, files=files, made={**entry.manifest.made, "device": "cuda", "host": "far"})
    (local(entry.folder).parent / "manifest.json").write_bytes(manifest.encode())
    step, entry = _bits(_context(home))
    assert _is_whole(entry)
    _damage(entry, "bits/c/0/0", "peak/c/0/0")
    with pytest.raises(CorruptEntryError) as caught:
        repair.repair(_context(home), step, list(entry.damaged()), connect=_connected)
    assert caught.value.seen == (
        f"{entry.entry_id}: computed again on cpu, peak/c/0/0 is not what was lost, which was made on cuda, far; "
        "1 of 2 damaged files were restored"
    )
    assert suggested(caught.value) == f"python -m pipeline.cache drop {entry.entry_id} --used --home {home}"
    assert list(entry.damaged()) == ["peak/c/0/0"], "a block that differs from its manifest is not written"
    assert not list(local(entry.folder).glob("repair-*"))


def _spied(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:  # noqa: ANN401 (whatever takes the jobs)
    def run(function: Any, sized: Sequence[Any], **options: Any) -> Iterator[Any]:  # noqa: ANN401 (handed on)
        before([job for job, _ in sized])
        return run_tasks(function, sized, **options)

    monkeypatch.setattr(repair, "run_tasks", run)


def test_a_repair_uses_the_batch_size_that_the_entry_was_made_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit near the threshold may depend on them, and they are not in the key."""
    sizes: list[int] = []
    _spied(monkeypatch, lambda jobs: sizes.extend(job.batch_size for job in jobs))
    context = _context(home, "targets.batch_size=3")
    step, entry = _bits(context)
    _damage(entry, "bits/c/0/0")
    repair.repair(context, step, list(entry.damaged()), connect=_connected)
    assert sizes == [make_context(home).settings.targets.batch_size] != [3]
    assert _is_whole(entry)


def test_an_entry_dropped_during_its_repair_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _context(home)
    step, entry = _bits(context)
    _damage(entry, "bits/c/0/0")
    _spied(monkeypatch, lambda _: context.store.discard(entry))
    with pytest.raises(MissingInputError, match=f"{entry.entry_id} was deleted") as caught:
        repair.repair(context, step, ["bits/c/0/0"], connect=_connected)
    assert suggested(caught.value, "odkd") == "odkd --stage targets"
    assert context.store.find(step.kind, step.recipe) is None
    assert not list(local(entry.folder).glob("repair-*"))


def test_two_repairs_at_the_same_time_both_succeed(home: Path) -> None:
    entry = _bits(_context(home))[1]
    damaged = ["bits/c/0/0", "peak/c/0/0"]
    _damage(entry, *damaged)
    together = threading.Barrier(2, timeout=60)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            context = _context(home)
            together.wait()
            repair.repair(context, _bits(context)[0], damaged, connect=_connected)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert raised == []
    assert _is_whole(entry)


def test_after_a_killed_repair_the_next_one_succeeds(home: Path) -> None:
    context = _context(home)
    step, entry = _bits(context)
    damaged = ["bits/c/0/0", "peak/c/0/0"]
    _damage(entry, *damaged)
    run_dir = context.run_dir
    (local(run_dir) / "config.resolved.yaml").write_text(resolved_yaml(context.settings))
    (local(run_dir) / "metrics.json").write_text(json.dumps({"entries": [entry.entry_id]}))
    command = [sys.executable, "-m", "pipeline.cache", "repair", entry.key, "--home", str(home)]
    # A process session of its own, so that only its own Ray processes are killed.
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not list(local(entry.folder).glob("repair-*/peak/zarr.json")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it never began"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert list(local(entry.folder).glob("repair-*")), "it had no time to clean up"
    assert list(entry.damaged()) == damaged
    repair.repair(context, step, list(entry.damaged()), connect=_connected)
    assert _is_whole(entry)
