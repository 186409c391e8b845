"""ray_cluster.yaml: every field is one that Ray knows, and what it installs is what constraints.txt says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with Ray; one exception is all that is used
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ROOT = Path(__file__).resolve().parents[1]
# The arguments of EC2's RunInstances that this file may use.
EC2_ARGUMENTS = {"InstanceType", "ImageId", "BlockDeviceMappings", "InstanceMarketOptions"}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))


def test_ray_accepts_the_cluster_with_its_own_defaults_filled_in(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["min_workers"] == 0
    assert prepared["head_setup_commands"] == [*cluster["setup_commands"], *cluster["head_setup_commands"]]


def test_ray_refuses_the_cluster_with_a_field_that_does_not_exist(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu"]["min_worker"] = 0
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(cluster))


def test_fields_that_ray_does_not_check_are_real_too(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert cluster["provider"].keys() <= schema["properties"]["provider"]["properties"].keys()
    for node in cluster["available_node_types"].values():
        assert node["node_config"].keys() <= EC2_ARGUMENTS


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_start_has_every_option_that_is_given_to_it(commands: str, cluster: dict[str, Any]) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    given = [word.partition("=")[0] for line in cluster[commands] for word in shlex.split(line) if word.startswith("--")]
    assert given
    assert set(given) <= known


def test_the_images_bring_the_pinned_ray(cluster: dict[str, Any]) -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"
    )
    for image in (cluster["docker"]["head_image"], cluster["docker"]["worker_image"]):
        assert image.split(":")[1].startswith(f"{pins['ray']}-py311")
