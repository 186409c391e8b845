"""Prediction over a table: keypoints come in the order of the table, for any division into tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from stages.data.loader import CropLoader
from stages.data.views import draw_views
from stages.distributed import predict as module
from stages.inference import DECODERS, decode_to_image, load_predictor
from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.instances import read_instances
from storage_schemas.paths.local import LocalPath
from tests.support.plan_samples import make_plan, on_labels
from tests.support.step_samples import make_context


def _in_process(
    function: Callable[[object], object], jobs: Sequence[tuple[object, int]], **_: object
) -> Iterator[tuple[object, object]]:
    """``run_tasks`` without Ray; results come in another order."""
    for job, _size in reversed(jobs):
        yield job, function(job)


def test_predictions_are_those_of_the_predictor_in_the_order_of_the_table(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_tasks", _in_process)
    monkeypatch.setattr(module, "worker_threads", lambda: 1)
    monkeypatch.setattr(module, "_TASK_INSTANCES", 2)
    plan = make_plan(tmp_path, on_labels(1))
    context = make_context(tmp_path / "home", "crop.size_wh=[64, 64]")
    network = load_network(
        NetworkSpec(network="hrnet_w8_tiny"), size_wh=(64, 64), num_keypoints=17, generator=torch.Generator().manual_seed(0)
    )
    save_weights(tmp_path / "weights.safetensors", network, {})
    spec = NetworkSpec(network="hrnet_w8_tiny", checkpoint=tmp_path / "weights.safetensors")
    found = module.predict(context, spec, plan.instances, plan.images, flip="exact", precision="float32", title="test")
    assert {decoder: keypoints.shape for decoder, keypoints in found.items()} == dict.fromkeys(DECODERS, (4, 17, 3))
    instances = read_instances(plan.instances.fetch())
    predictor = load_predictor(spec, instances.skeleton, (64, 64), "cpu", "float32", 1)
    loader = CropLoader(instances, plan.images, size_wh=(64, 64), threads=1)
    views = draw_views(instances, 0, seed=0, augment=plan.augment, size_wh=(64, 64))
    for rows in (np.arange(2), np.arange(2, 4)):
        ((batch,),) = loader.batches([rows], [views])
        heat_BKHW = predictor.heatmaps(batch, flip="exact")
        for decoder in DECODERS:
            expected = decode_to_image(heat_BKHW, views.affine_N23[rows].astype(np.float64), decoder=decoder)
            assert np.array_equal(found[decoder][rows], expected)
    loader.close()
