"""The table of networks: names, numbers in names, and a toy architecture that needs one line in the table."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from stages.networks import spec
from stages.networks.hrnet import hrnet, hrnet_small, hrnet_tiny
from stages.networks.load import load_network
from stages.networks.mask_adapter import SeniorNetwork
from stages.networks.profile import profile
from stages.networks.spec import NetworkSpec, architecture, architecture_recipe, is_network, known_networks
from stages.settings import DistillSettings, NetworkSource, TeacherSource, TrainSettings
from storage_schemas.errors import ConfigError, WeightsError
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.paths.local import LocalPath
from tests.support.toy_network import ToyConfig, ToyNet

SIZE_WH = (32, 64)
_load = partial(load_network, size_wh=SIZE_WH, num_keypoints=17)


def test_every_width_has_a_name() -> None:
    assert architecture("hrnet_w24") == hrnet(24)
    assert architecture("hrnet_w12_small") == hrnet_small(12)
    assert architecture("hrnet_w9999_tiny") == hrnet_tiny(9999)


@pytest.mark.parametrize("name", ["hrnet", "hrnet_w0", "hrnet_w10000", "hrnet_w16_huge", "hrnet_w16\n", "resnet50", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    assert not is_network(name)
    with pytest.raises(ConfigError, match="no network is called") as caught:
        architecture(name)
    assert caught.value.allowed == known_networks()
    assert "hrnet_w{width}_small" in known_networks()
    with pytest.raises(ValidationError) as refused:
        NetworkSource(network=name)
    assert known_networks() in str(refused.value)


def test_a_recipe_holds_every_number_of_the_architecture() -> None:
    assert architecture_recipe("hrnet_w16_tiny", num_keypoints=17) == {
        "width": 16,
        "modules": (1, 1, 1),
        "blocks": 1,
        "num_joints": 17,
        "in_channels": 3,
        "stem_blocks": 1,
        "stem": 32,
    }


@pytest.mark.parametrize("pattern", list(spec.NETWORKS))
def test_each_line_of_the_table_names_a_function_that_takes_the_numbers_of_its_name(pattern: str) -> None:
    assert architecture(re.sub(r"{\w+=(\d+)[^}]*}", r"\1", re.sub(r"{\w+}", "16", pattern))).build(num_keypoints=3)


def test_only_its_module_and_the_table_name_an_architecture() -> None:
    root = Path(spec.__file__).parents[2]
    sources = [path for part in ("pipeline", "stages") for path in (root / part).rglob("*.py")]
    assert [path.name for path in sources if "networks.hrnet" in path.read_text()] == ["spec.py"]


@pytest.fixture
def toy_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new network takes one file, and this line in the table."""
    monkeypatch.setitem(spec.NETWORKS, "toy_{channels}", "tests.support.toy_network:toy")


@pytest.mark.usefixtures("toy_in_table")
def test_settings_accept_a_new_network_for_teachers_and_student() -> None:
    assert TeacherSource(network="toy_8", train=TrainSettings(epochs=1)).network == "toy_8"
    assert DistillSettings(student=NetworkSource(network="toy_2")).student.network == "toy_2"
    assert "toy_{channels}" in known_networks()
    assert architecture("toy_8") == ToyConfig(channels=8)
    assert architecture_recipe("toy_8", num_keypoints=17) == {"channels": 8, "num_joints": 17}


@pytest.mark.usefixtures("toy_in_table")
def test_a_new_network_starts_from_seeded_weights_and_its_cost_is_counted() -> None:
    first, again, other = (
        _load(NetworkSpec(network="toy_8"), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert isinstance(first, ToyNet)
    assert torch.equal(first.conv.weight, again.conv.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(first.conv.weight, other.conv.weight)  # type: ignore[arg-type, union-attr]
    assert profile(first, size_wh=SIZE_WH).macs == 8 * 16 * (3 * 16 * 8 + 8 * 17)


@pytest.mark.usefixtures("toy_in_table")
def test_a_new_network_is_a_teacher_a_senior_and_a_student(tmp_path: LocalPath) -> None:
    trained = _load(NetworkSpec(network="toy_8"))
    torch.save(trained.state_dict(), tmp_path / "teacher.pth")
    save_weights(tmp_path / "student.safetensors", trained, {"network": "toy_8"})
    image_B3hw = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    teacher = _load(NetworkSpec(network="toy_8", weights=tmp_path / "teacher.pth"))
    student = _load(NetworkSpec(network="toy_8", checkpoint=tmp_path / "student.safetensors"))
    senior = _load(NetworkSpec(network="toy_8", weights=tmp_path / "teacher.pth", senior=True))
    assert isinstance(senior, SeniorNetwork)
    with torch.no_grad():
        expected = trained(image_B3hw)
        assert torch.equal(teacher(image_B3hw), expected)
        assert torch.equal(student(image_B3hw), expected)
        assert torch.equal(senior(image_B3hw, torch.ones(2, 1, 64, 32), torch.ones(2)), expected)


@pytest.mark.usefixtures("toy_in_table")
def test_weights_of_another_size_do_not_fit_a_new_network(tmp_path: LocalPath) -> None:
    torch.save(_load(NetworkSpec(network="toy_4")).state_dict(), tmp_path / "four.pth")
    with pytest.raises(WeightsError, match="loaded 1 of 4 tensors"):
        _load(NetworkSpec(network="toy_8", weights=tmp_path / "four.pth"))
