"""One training step: the loss terms of each joint, and a loss that falls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from stages.data.loader import Batch
from stages.settings import Role
from stages.training.loss import blend_targets
from stages.training.memory_map import MappedArray
from stages.training.optimizer import make_optimizer
from stages.training.plan import TrainingPlan
from stages.training.schedule import Weights
from stages.training.step import Trainer
from storage_schemas.formats.targets import create_arrays, pack_bits, target_arrays, write_block
from storage_schemas.paths.local import LocalPath
from tests.support.plan_samples import BARE_PLAN

CROP_WH = (64, 64)
HEATMAP_WH = (16, 16)
GENERATOR = np.random.default_rng(0)

PLAN = BARE_PLAN


def make_trainer(plan: TrainingPlan = PLAN) -> Trainer:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 17, kernel_size=4, stride=4)
    return Trainer(plan, network, make_optimizer(network, plan.train), torch.device("cpu"), np.ones(4, np.bool_))


def make_batch(rows: list[int], keypoints_K3: npt.NDArray[np.float32] | None = None) -> Batch:
    """Noise with the joints of ``keypoints_K3``, or without a labelled joint, in every crop."""
    image = np.random.default_rng(1).integers(0, 256, (len(rows), 64, 64, 3), dtype=np.uint8)
    joints = np.zeros((17, 3), dtype=np.float32) if keypoints_K3 is None else keypoints_K3
    no_mask = np.zeros((len(rows), 0, 0), dtype=np.uint8)
    return Batch(np.array(rows), image, np.stack([joints] * len(rows)), no_mask, np.zeros(len(rows), dtype=bool))


@pytest.fixture
def teachers(tmp_path: LocalPath) -> Iterator[dict[Role, MappedArray]]:
    """Bits of four instances: in row 2 the primary has joint 3 at (x, y) = (6, 10), and the senior has joint 5 at (8, 2)."""
    found: dict[Role, MappedArray] = {}
    entry_ids: dict[Role, tuple[int, int, int]] = {"primary": (3, 10, 6), "senior": (5, 2, 8)}
    for role, (joint, y, x) in entry_ids.items():
        bits = np.zeros((4, 17, 16, 16), dtype=bool)
        bits[2, joint, y, x] = True
        folder = tmp_path / role
        folder.mkdir()
        create_arrays(folder, target_arrays(HEATMAP_WH, 17), 4)
        write_block(folder, 0, {"bits": pack_bits(bits), "peak": np.asarray(bits.any(axis=(2, 3)), np.float16)})
        found[role] = MappedArray(folder, "bits")
    yield dict(found)
    for array in found.values():
        array.close()


def targets(
    teachers: dict[Role, MappedArray], weights: Weights, row: int, plan: TrainingPlan = PLAN
) -> tuple[torch.Tensor, torch.Tensor]:
    """The blended target [K, H, W] and weight [K] of one instance."""
    target, weight = blend_targets(make_trainer(plan).loss_terms(make_batch([row]), weights, teachers))
    return target[0], weight[0]


def test_only_joints_with_bits_are_in_the_loss(teachers: dict[Role, MappedArray]) -> None:
    target, weight = targets(teachers, Weights(0.0, primary=1.0), row=2)
    assert weight.tolist() == [0, 0, 0, 1.0] + [0] * 13
    assert target[3].nonzero().tolist() == [[10, 6]]


def test_each_instance_gets_the_bits_of_its_own_row_from_each_teacher(teachers: dict[Role, MappedArray]) -> None:
    weights = Weights(0.0, primary=0.25, senior=0.75)
    assert not targets(teachers, weights, row=1)[1].any()
    target, weight = targets(teachers, weights, row=2)
    assert {joint: float(weight[joint]) for joint in range(17) if weight[joint]} == {3: 0.25, 5: 0.75}
    assert target.nonzero().tolist() == [[3, 10, 6], [5, 2, 8]]


def test_targets_of_a_student_of_half_the_size_keep_their_position(teachers: dict[Role, MappedArray]) -> None:
    """Heatmap pixel (x, y) = (6, 10) of the teacher is cell (3, 5) of a student at half the size, as for labels."""
    target, _ = targets(teachers, Weights(0.0, primary=1.0), 2, replace(PLAN, size_divisor=2))
    assert target.shape == (17, 8, 8)
    assert target[3].nonzero().tolist() == [[5, 3]]


def test_bits_of_a_teacher_without_weight_are_not_read(teachers: dict[Role, MappedArray]) -> None:
    del teachers["senior"]
    terms = make_trainer().loss_terms(make_batch([2]), Weights(0.5, primary=0.5), teachers)
    assert [term.weight for term in terms] == [0.5, 0.5]


def test_repeated_steps_on_one_batch_lower_its_loss(teachers: dict[Role, MappedArray]) -> None:
    trainer = make_trainer()
    joints = np.array([[32, 32, 2]] * 17, dtype=np.float32)
    batch = make_batch([0, 2], joints)
    losses = [float(trainer.step(batch, Weights(0.5, primary=0.5), teachers, generator=GENERATOR)) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_of_a_row_without_usable_labels_only_the_teachers_bits_count(teachers: dict[Role, MappedArray]) -> None:
    joints = np.zeros((17, 3), dtype=np.float32)
    joints[:, :] = (20, 30, 2)
    trainer = replace(make_trainer(), labelled_N=np.array([True, True, False, True]))
    labels, primary = trainer.loss_terms(make_batch([1, 2], joints), Weights(0.6, primary=0.4), teachers)
    assert labels.seen_BK[0].tolist() == [1] * 17
    assert labels.seen_BK[1].tolist() == [0] * 17
    _, weight_BK = blend_targets([labels, primary])
    # In row 2 the primary has bits of joint 3 alone, and in row 1 of none.
    assert weight_BK[0].tolist() == pytest.approx([0.6] * 17)
    assert weight_BK[1].tolist() == pytest.approx([0.4 if joint == 3 else 0 for joint in range(17)])


class _Stacks(nn.Module):
    """Two outputs in training mode, as of an hourglass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 17, kernel_size=4, stride=4)
        self.last = nn.Conv2d(3, 17, kernel_size=4, stride=4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs."""
        return self.first(image), self.last(image)


def test_each_stack_is_taught_the_same_target_and_the_losses_are_added(teachers: dict[Role, MappedArray]) -> None:
    joints = np.zeros((17, 3), dtype=np.float32)
    joints[4] = (20, 30, 2)
    stacks = _Stacks()

    def loss(network: nn.Module) -> float:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        trainer = replace(make_trainer(), network=network, optimizer=optimizer)
        return float(trainer.step(make_batch([2], joints), Weights(1.0), teachers, generator=GENERATOR))

    assert loss(stacks) == pytest.approx(loss(stacks.first) + loss(stacks.last))


def test_a_joint_of_a_teacher_can_weigh_as_much_as_its_peak(teachers: dict[Role, MappedArray]) -> None:
    peaks: dict[Role, npt.NDArray[np.float32]] = {"primary": np.full((4, 17), 0.25, np.float32)}
    (primary,) = make_trainer().loss_terms(make_batch([2]), Weights(0.0, primary=0.4), teachers, peaks)
    assert primary.seen_BK[0].tolist() == [0.25 if joint == 3 else 0 for joint in range(17)]


def test_labels_become_bits_where_the_plan_says_so(teachers: dict[Role, MappedArray]) -> None:
    joints = np.zeros((17, 3), dtype=np.float32)
    joints[4] = (32, 32, 2)
    (soft,) = make_trainer().loss_terms(make_batch([2], joints), Weights(1.0), teachers)
    (bits,) = make_trainer(replace(PLAN, binarize_labels=True)).loss_terms(make_batch([2], joints), Weights(1.0), teachers)
    assert bits.heat_BKHW.unique().tolist() == [0, 1]
    assert torch.equal(bits.heat_BKHW[0, 4] == 1, soft.heat_BKHW[0, 4] >= 0.5)
    assert bits.heat_BKHW[0, 4].sum() >= 1
    assert 0 < float(soft.heat_BKHW[0, 4].sort().values.flatten().unique()[1]) < 1
    assert torch.equal(bits.seen_BK, soft.seen_BK)
