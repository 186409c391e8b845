"""What trainings start from: keys that hold the file, and first weights that reach a worker by the draft."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from stages.networks.input_format import BGR, InputFormat
from stages.networks.load import format_of, load_network
from stages.networks.spec import NetworkSpec, architecture
from stages.settings import NetworkSource
from stages.starting import starting_recipe, starting_spec
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.step_samples import make_context

SIZE_WH = (64, 64)


def _file(path: LocalPath, network: str = "simple_resnet18", *, num_keypoints: int = 17) -> LocalPath:
    generator = torch.Generator().manual_seed(7)
    torch.save(architecture(network).build(num_keypoints=num_keypoints, generator=generator).state_dict(), path)
    return path


def _spec(tmp_path: LocalPath, source: NetworkSource) -> NetworkSpec:
    context = make_context(tmp_path / "home")
    with context.store.draft("students", {"a": 1}) as draft:
        assert isinstance(draft, Draft)
        return starting_spec(context, source, draft, title="distill: student", seed=3, size_wh=SIZE_WH, num_keypoints=5)


def test_without_first_weights_a_recipe_has_no_field_and_weights_are_drawn(tmp_path: LocalPath) -> None:
    source = NetworkSource(network="simple_resnet18")
    assert starting_recipe(source) == {}
    assert _spec(tmp_path, source) == NetworkSpec(network="simple_resnet18")


def test_a_recipe_holds_the_hash_of_the_file_and_what_the_user_says_of_the_input(tmp_path: LocalPath) -> None:
    file = _file(tmp_path / "a.pth")
    first = starting_recipe(NetworkSource(network="simple_resnet18", init=file))
    moved = starting_recipe(NetworkSource(network="simple_resnet18", init=file.rename(tmp_path / "b.pth")))
    assert first == moved
    assert set(first) == {"init"}
    source = NetworkSource.model_validate({"network": "simple_resnet18", "input": {"channels": "bgr"}})
    assert starting_recipe(source)["input"]["channels"] == "bgr"


def test_first_weights_of_another_joint_set_reach_the_worker_with_a_new_last_layer(
    tmp_path: LocalPath, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = _file(tmp_path / "pose.pth")
    spec = _spec(tmp_path, NetworkSource(network="simple_resnet18", init=file))
    assert (
        f"distill: student: first weights from {file}: 138 of 140 tensors taken, new: final_layer; it is fed BGR" in caplog.text
    )
    assert format_of(spec) == BGR
    found = load_network(spec, size_wh=SIZE_WH, num_keypoints=5).state_dict()
    given = torch.load(file, weights_only=True)
    drawn = architecture("simple_resnet18").build(num_keypoints=5, generator=torch.Generator().manual_seed(3)).state_dict()
    assert all(torch.equal(found[name], given[name]) for name in found if not name.startswith("final_layer"))
    assert torch.equal(found["final_layer.weight"], drawn["final_layer.weight"])


def test_what_the_user_says_of_the_input_holds(tmp_path: LocalPath) -> None:
    settings = {"network": "simple_resnet18", "init": str(_file(tmp_path / "pose.pth")), "input": {"std": [1, 1, 1]}}
    spec = _spec(tmp_path, NetworkSource.model_validate(settings))
    assert format_of(spec) == InputFormat(std=(1, 1, 1))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"The first weights /none/w\.pth \(init\) do not exist"):
        starting_recipe(NetworkSource(network="simple_resnet18", init=Path("/none/w.pth")))
