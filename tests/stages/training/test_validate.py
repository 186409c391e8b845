"""AP during a training: people whom a network finds, and people who do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from stages.data.coco import read_coco, sort_out
from stages.data.holdout import is_held_out
from stages.data.images import check_image
from stages.data.windows import ImageSource
from stages.pose.skeleton import COCO_17
from stages.training.plan import TrainingPlan
from stages.training.validate import Validator
from storage_schemas.errors import TrainingError
from storage_schemas.formats.instances import Instances
from storage_schemas.paths.local import LocalPath
from tests.support.dot_teacher import DotTeacher, write_people
from tests.support.plan_samples import make_plan, on_labels


def _people(folder: LocalPath) -> tuple[Instances, TrainingPlan]:
    """Ten people of dots, all held out."""
    annotations, images = write_people(folder / "people", images=10, first=1, seed=0)
    records = sort_out(read_coco(annotations, COCO_17), aspect_wh=0.75).records
    facts = {record.image_id: check_image(images, record.file_name, (record.width, record.height)) for record in records}
    plan = make_plan(folder / "plan", on_labels(1))
    return (
        Instances.from_records(records, facts, COCO_17),
        replace(plan, images=ImageSource(images), crop_wh=(192, 256), holdout_fraction=1.0),
    )


@pytest.mark.parametrize("divisor", [1, 2])
def test_a_network_that_finds_all_joints_scores_high_and_one_with_exchanged_sides_low(
    tmp_path: LocalPath, divisor: int
) -> None:
    instances, plan = _people(tmp_path)
    validator = Validator(instances, replace(plan, size_divisor=divisor), threads=1)
    assert validator.ap(DotTeacher()) > 0.9
    assert validator.ap(DotTeacher(swapped=True)) < 0.3


def test_the_network_stays_in_its_mode(tmp_path: LocalPath) -> None:
    instances, plan = _people(tmp_path)
    network = nn.Sequential(DotTeacher(), nn.BatchNorm2d(17)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Validator(instances, plan, threads=1).ap(network)
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_only_held_out_people_count(tmp_path: LocalPath) -> None:
    instances, plan = _people(tmp_path)
    held = [number for number in range(1, 11) if is_held_out(number, 0.3)]
    assert 0 < len(held) < 10
    # The joints of the others are wrong.
    keypoints = instances.keypoints_NK3.copy()
    for row, image in enumerate(instances.image_id_M[instances.image_N].tolist()):
        if image not in held:
            keypoints[row, :, :2] += 60
    wrong = replace(instances, keypoints_NK3=keypoints)
    assert Validator(wrong, replace(plan, holdout_fraction=0.3), threads=1).ap(DotTeacher()) > 0.9
    assert Validator(wrong, plan, threads=1).ap(DotTeacher()) < 0.6


def test_without_held_out_people_it_is_refused(tmp_path: LocalPath) -> None:
    instances, plan = _people(tmp_path)
    with pytest.raises(TrainingError, match="has no held-out person with a label"):
        Validator(instances, replace(plan, holdout_fraction=0.0), threads=1)
