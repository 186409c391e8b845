"""The predictor returns the same bits as its parts in sequence, and the keypoints of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from stages.data.crops import crop_image
from stages.data.loader import Batch, CropLoader, load_image
from stages.data.views import Views, draw_views
from stages.inference import DECODERS, Precision, Predictor, decode_to_image, load_predictor
from stages.networks.load import load_network
from stages.networks.mask_adapter import MaskAdapter, SeniorNetwork
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec
from stages.pose.affine import box_to_center_size, crop_affine
from stages.pose.decode import Decoder, dark_kernel_of, decode, to_image
from stages.pose.flip import FlipTest, flip_merge, mirrored
from stages.pose.skeleton import COCO_17
from stages.training.plan import TrainingPlan
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.formats.instances import Instances, read_instances
from storage_schemas.paths.local import LocalPath
from tests.support.plan_samples import make_plan, on_labels
from tests.support.toy_network import ToyConfig

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE_WH = (48, 64)
BOXES = [(40, 20, 60, 130), (5.5, 3.25, 30, 44), (100, 90, 80, 20)]


def _network() -> nn.Module:
    return ToyConfig(8).build(num_keypoints=17, generator=torch.Generator().manual_seed(0)).eval()


def _image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)


def _run(network: nn.Module, precision: Precision, *inputs: Tensor) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        heat_BKHW: Tensor = network(*inputs)
    return heat_BKHW.float().contiguous()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("flip", ["exact", "hrnet", False])
@pytest.mark.parametrize("decoder", DECODERS)
def test_keypoints_equal_those_of_the_parts_in_sequence(decoder: Decoder, flip: FlipTest, precision: Precision) -> None:
    network, image_hw3 = _network(), _image()
    predictor = Predictor(network, size_wh=SIZE_WH, precision=precision)
    center_N2, size_N2 = box_to_center_size(BOXES, aspect_wh=SIZE_WH[0] / SIZE_WH[1])
    affine_N23 = crop_affine(center_N2, size_N2, rotation_deg=np.zeros(3), size_wh=SIZE_WH).astype(np.float32)
    crops = np.stack([crop_image(image_hw3, affine_23, size_wh=SIZE_WH) for affine_23 in affine_N23])
    image_B3hw = torch.from_numpy(crops).permute(0, 3, 1, 2)
    heat_BKHW = _run(network, precision, normalize(image_B3hw))
    if flip:
        back_BKHW = _run(network, precision, normalize(mirrored(image_B3hw, flip=flip)))
        heat_BKHW = flip_merge(heat_BKHW, back_BKHW, skeleton=COCO_17)
    xy, score = decode(heat_BKHW, decoder=decoder, dark_kernel=dark_kernel_of((12, 16)))
    expected = np.concatenate([to_image(xy, affine_N23), score.numpy()[..., None]], axis=-1).astype(np.float32)
    found = predictor.predict(image_hw3, BOXES, flip=flip, decoder=decoder)
    assert found.shape == (3, 17, 3)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@dataclass(frozen=True)
class _Sample:
    plan: TrainingPlan
    instances: Instances
    views: Views
    batch: Batch


@pytest.fixture
def sample(tmp_path: Path) -> _Sample:
    """Two plain crops, as evaluation cuts them."""
    plan = make_plan(tmp_path, on_labels(1))
    instances = read_instances(plan.instances.fetch())
    center_N2, size_N2 = box_to_center_size(instances.box_N4, aspect_wh=1.0)
    instances = replace(instances, center_N2=center_N2, size_N2=size_N2)
    views = draw_views(instances, 0, seed=0, augment=plan.augment, size_wh=plan.crop_wh)
    loader = CropLoader(instances, plan.images, size_wh=plan.crop_wh, threads=1)
    ((batch,),) = loader.batches([np.arange(2)], [views], with_mask=True)
    loader.close()
    return _Sample(plan, instances, views, batch)


def test_an_image_and_its_boxes_have_the_keypoints_of_evaluation(sample: _Sample) -> None:
    plan, instances = sample.plan, sample.instances
    predictor = Predictor(_network(), size_wh=plan.crop_wh)
    heat_BKHW = predictor.heatmaps(sample.batch, flip="exact")
    expected = decode_to_image(heat_BKHW, sample.views.affine_N23[:2].astype(np.float64), decoder="quarter")
    for row in range(2):
        image_hw3 = load_image(plan.images.root, instances, int(instances.image_N[row]))
        found = predictor.predict(image_hw3, instances.box_N4[row], flip="exact", decoder="quarter")
        np.testing.assert_allclose(found[0], expected[row], rtol=0, atol=1e-4)


def test_a_senior_sees_the_masks_of_a_batch_mirrored_with_the_crop(sample: _Sample) -> None:
    plan, batch = sample.plan, sample.batch
    adapter = MaskAdapter(generator=torch.Generator().manual_seed(1))
    nn.init.normal_(adapter.last.weight, generator=torch.Generator().manual_seed(2))
    senior = SeniorNetwork(_network(), adapter).eval()
    # Before the network runs: the predictor changes its memory layout, and the last digit with it.
    predictor = Predictor(senior, size_wh=plan.crop_wh)
    image_B3hw = torch.from_numpy(batch.image_Bhw3).permute(0, 3, 1, 2)
    mask_B1hw, known_B = torch.from_numpy(batch.mask_Bhw)[:, None].float(), torch.from_numpy(batch.has_mask_B).float()
    plain = _run(senior, "float32", normalize(image_B3hw), mask_B1hw, known_B)
    # Column x becomes w - x; the first one comes from outside of the crop, and repeats the last.
    columns = [-1, *range(-1, -image_B3hw.shape[-1], -1)]
    back = _run(senior, "float32", normalize(image_B3hw[..., columns]), mask_B1hw[..., columns], known_B)
    assert torch.equal(predictor.heatmaps(batch), plain)
    assert torch.equal(predictor.heatmaps(batch, flip="exact"), flip_merge(plain, back, skeleton=COCO_17))


def test_no_boxes_return_no_keypoints() -> None:
    assert Predictor(_network(), size_wh=SIZE_WH).predict(_image(), []).shape == (0, 17, 3)


@pytest.mark.parametrize("kind", [str, PosixPath, LocalPath])
def test_weights_may_be_given_as_text_or_as_any_path(tmp_path: Path, kind: Callable[[Path], str | Path]) -> None:
    path = tmp_path / "weights.safetensors"
    network = load_network(NetworkSpec(network="hrnet_w8_tiny"), size_wh=(32, 64), num_keypoints=17)
    save_weights(path, network, {})
    predictor = Predictor(NetworkSpec(network="hrnet_w8_tiny", checkpoint=kind(path)), size_wh=(32, 64))
    assert torch.equal(predictor.network.state_dict()["final_layer.bias"], network.state_dict()["final_layer.bias"])


def test_a_process_loads_a_network_once() -> None:
    spec = NetworkSpec(network="hrnet_w8_tiny")
    first, again = (load_predictor(spec, COCO_17, (32, 64), "cpu", "float32", torch.get_num_threads()) for _ in range(2))
    assert first is again
    assert first.predict(_image(), BOXES[:1]).shape == (1, 17, 3)
