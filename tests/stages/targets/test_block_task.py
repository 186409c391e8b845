"""One block of targets, which two copies of a task may write; whole runs are in tests/pipeline."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from stages.settings import BinarizeSettings
from stages.targets.block_task import BlockJob, BlockOutput, BlockTeacher, BlockView, fill_block
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.parts import finished_parts
from tests.support.plan_samples import CROP_WH, make_plan, on_labels


def _job(tmp_path: LocalPath, *, seed: int) -> BlockJob:
    """The validation set's block, by a teacher whose weights depend on ``seed``; its files go to the folder ``draft``."""
    plan = make_plan(tmp_path / f"plan-{seed}", on_labels(1))
    generator = torch.Generator().manual_seed(seed)
    network = load_network(NetworkSpec(network="hrnet_w8_tiny"), size_wh=CROP_WH, num_keypoints=17, generator=generator)
    weights = tmp_path / f"{seed}.safetensors"
    save_weights(weights, network, {})
    output = BlockOutput(rule=BinarizeSettings(min_peak=0.0), folder=tmp_path / "draft")
    spec = NetworkSpec(network="hrnet_w8_tiny", checkpoint=weights)
    teacher = BlockTeacher(role="primary", spec=spec, outputs=(output,))
    return BlockJob(
        block=0,
        start=0,
        stop=4,
        num=4,
        instances=plan.instances,
        images=plan.images,
        views=(BlockView(view=0, stored=None, draft=None, teachers=(teacher,)),),
        size_wh=CROP_WH,
        seed=0,
        augment=plan.augment,
        device="cpu",
        precision="float32",
        batch_size=2,
        score=True,
    )


def _files(folder: LocalPath) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(folder.files_below())}


def test_a_finished_block_keeps_the_files_of_the_copy_that_was_first(tmp_path: LocalPath) -> None:
    """On another kind of GPU a copy gets other bits, which stands here for other weights."""
    draft = tmp_path / "draft"
    fill_block(_job(tmp_path, seed=1), threads=1)
    first = _files(draft)
    assert {"block-00000.npz", "block-00000.part.json", "bits/c/0/0", "peak/c/0/0"} <= first.keys()
    other = _job(tmp_path, seed=2)
    fill_block(other, threads=1)
    assert _files(draft) == first
    (draft / "peak/c/0/0").unlink()
    fill_block(other, threads=1)
    assert [part.name for part in finished_parts(draft)] == ["block-00000"]
    assert _files(draft)["bits/c/0/0"] != first["bits/c/0/0"]


def test_a_copy_that_is_interrupted_leaves_the_poses_of_the_other_whole(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_block(_job(tmp_path, seed=1), threads=1)
    poses = tmp_path / "draft" / "block-00000.npz"
    # The other copy has written its poses, but not yet its marker.
    (tmp_path / "draft" / "block-00000.part.json").unlink()
    before = poses.read_bytes()

    def interrupted(target: LocalPath | io.BytesIO, **_: Any) -> None:  # noqa: ANN401 (any arrays)
        if isinstance(target, io.BytesIO):
            target.write(b"PK")
        else:
            target.write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill_block(_job(tmp_path, seed=2), threads=1)
    assert poses.read_bytes() == before
    assert np.load(poses)["quarter"].shape == (4, 17, 3)
