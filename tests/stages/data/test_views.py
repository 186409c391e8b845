"""Views: the same draws in any process and order, HRNet's distributions, and golden numbers."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from stages.data.views import Views, draw_views
from stages.pose.affine import apply_affine, crop_affine, invert_affine
from stages.settings import AugmentSettings
from tests.support.instance_samples import make_instances

SIZE_WH = (48, 64)
PLAIN = AugmentSettings(scale=0.0, rotation_prob=0.0, flip_prob=0.0, half_body_prob=0.0)
NUM = 4000
F64 = npt.NDArray[np.float64]

ELSEWHERE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.support.instance_samples import make_instances
from stages.data.views import draw_views
from stages.settings import AugmentSettings
views = draw_views(make_instances([1] * 50), 2, seed=7, augment=AugmentSettings(), size_wh=(48, 64))
print(hashlib.sha256(views.affine_N23.tobytes() + views.flip_N.tobytes()).hexdigest())
"""


@dataclass(frozen=True)
class _Drawn:
    """The drawn values, computed from the matrices."""

    scale_N: F64
    rotation_N: F64
    flip_N: npt.NDArray[np.bool_]
    center_N2: F64


def _read_back(views: Views, width: float) -> _Drawn:
    """``u = s R D (p - c) + d``: s is the crop's width by the box's, R's angle is in its right column, D is in the sign."""
    affine = views.affine_N23.astype(np.float64)
    determinant = affine[:, 0, 0] * affine[:, 1, 1] - affine[:, 0, 1] * affine[:, 1, 0]
    return _Drawn(
        SIZE_WH[0] / np.sqrt(np.abs(determinant)) / width,
        np.rad2deg(np.arctan2(affine[:, 0, 1], affine[:, 1, 1])),
        determinant < 0,
        apply_affine(invert_affine(affine), [[SIZE_WH[0] / 2, SIZE_WH[1] / 2]])[:, 0],
    )


def _draw(view: int, *, augment: AugmentSettings, num: int = NUM, seed: int = 3) -> _Drawn:
    instances = make_instances([1] * num)
    return _read_back(draw_views(instances, view, seed=seed, augment=augment, size_wh=SIZE_WH), instances.size_N2[0, 0])


def _near(share: float, expected: float) -> bool:
    """Within four standard errors of a share of ``NUM`` draws."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / NUM)


def _below(z: float) -> float:
    """The share of a normal distribution below ``z``."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def test_an_instance_gets_the_same_view_in_any_order_and_selection() -> None:
    instances = make_instances([1] * 30)
    rows = np.array([17, 3, 29, 4])
    for view in (0, 1, 5):
        all_of_them = draw_views(instances, view, seed=7, augment=AugmentSettings(), size_wh=SIZE_WH)
        some = draw_views(instances.select(rows), view, seed=7, augment=AugmentSettings(), size_wh=SIZE_WH)
        assert np.array_equal(some.affine_N23, all_of_them.affine_N23[rows])
        assert np.array_equal(some.flip_N, all_of_them.flip_N[rows])


def test_another_process_draws_the_same() -> None:
    folder = __file__.rpartition("/tests/")[0]
    command = [sys.executable, "-c", ELSEWHERE, folder]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    views = draw_views(make_instances([1] * 50), 2, seed=7, augment=AugmentSettings(), size_wh=SIZE_WH)
    assert said.strip() == hashlib.sha256(views.affine_N23.tobytes() + views.flip_N.tobytes()).hexdigest()


def test_view_0_is_the_plain_crop_for_any_seed() -> None:
    instances = make_instances([1, 1, 2], boxes=[(5, 5, 20, 20), (10, 0, 10, 50), (0, 30, 60, 10)])
    views = draw_views(instances, 0, seed=9, augment=AugmentSettings(), size_wh=SIZE_WH)
    # 20 x 20 grows to 20 x 26.67, by 1.25 to 25 wide: a factor of 48 / 25, and the centre (15, 15) goes to (24, 32).
    factor = 48 / 25
    assert np.allclose(views.affine_N23[0], [[factor, 0, 24 - 15 * factor], [0, factor, 32 - 15 * factor]], atol=1e-5)
    plain = crop_affine(instances.center_N2, instances.size_N2, rotation_deg=0.0, size_wh=SIZE_WH)
    assert np.array_equal(views.affine_N23, plain.astype(np.float32))
    assert not views.flip_N.any()


def test_without_augmentation_every_view_is_the_plain_crop() -> None:
    instances = make_instances([1] * 20)
    plain = draw_views(instances, 0, seed=1, augment=PLAIN, size_wh=SIZE_WH)
    assert np.array_equal(draw_views(instances, 3, seed=1, augment=PLAIN, size_wh=SIZE_WH).affine_N23, plain.affine_N23)


def test_views_seeds_and_instances_have_independent_draws() -> None:
    ids = [*range(1, 40), *range(-40, -1)]
    instances = make_instances([1] * len(ids), ids=ids)
    drawn = [
        draw_views(instances, view, seed=seed, augment=AugmentSettings(), size_wh=SIZE_WH).affine_N23.tobytes()
        for view, seed in ((1, 0), (2, 0), (1, 1), (1, -1), (2, 1))
    ]
    assert len(set(drawn)) == 5
    turning = PLAIN.model_copy(update={"rotation_prob": 1.0})
    rotation_N = _read_back(draw_views(instances, 1, seed=0, augment=turning, size_wh=SIZE_WH), 1.0).rotation_N
    free_N = rotation_N[np.abs(rotation_N) < 89.9]
    assert len(np.unique(free_N.round(3))) == len(free_N) > 60


def test_the_share_of_mirrored_instances_is_the_setting() -> None:
    for probability in (0.5, 0.2):
        drawn = _draw(1, augment=PLAIN.model_copy(update={"flip_prob": probability}))
        assert _near(drawn.flip_N.mean(), probability)


def test_the_flag_says_whether_the_matrix_mirrors() -> None:
    instances = make_instances([1] * 200)
    views = draw_views(instances, 1, seed=0, augment=AugmentSettings(), size_wh=SIZE_WH)
    assert np.array_equal(views.flip_N, _read_back(views, 1.0).flip_N)


def test_scale_is_one_plus_a_normal_clipped_at_its_spread() -> None:
    scale_N = _draw(1, augment=PLAIN.model_copy(update={"scale": 0.35})).scale_N
    assert scale_N.min() == pytest.approx(0.65, abs=1e-5)
    assert scale_N.max() == pytest.approx(1.35, abs=1e-5)
    # Cut at one standard deviation on each side, which leaves 15.9 % at either end.
    assert _near((scale_N < 0.65 + 1e-4).mean(), _below(-1))
    assert _near((scale_N > 1.35 - 1e-4).mean(), _below(-1))
    for z in (-0.5, 0.0, 0.5):
        assert _near((scale_N < 1 + 0.35 * z).mean(), _below(z))


def test_rotation_is_a_normal_clipped_at_twice_its_spread_for_a_share_of_instances() -> None:
    rotation_N = _draw(1, augment=PLAIN.model_copy(update={"rotation_deg": 40.0, "rotation_prob": 0.6})).rotation_N
    assert np.abs(rotation_N).max() == pytest.approx(80.0, abs=1e-3)
    assert _near((np.abs(rotation_N) > 1e-3).mean(), 0.6)
    assert _near((np.abs(rotation_N) > 80 - 1e-2).mean(), 0.6 * 2 * _below(-2))
    for z in (-1.0, 1.0):
        assert _near((rotation_N * z > 40.0).mean(), 0.6 * _below(-1))


def test_one_setting_does_not_change_the_other_draws() -> None:
    both = _draw(1, augment=AugmentSettings(half_body_prob=0.0), num=300)
    unmirrored = _draw(1, augment=AugmentSettings(half_body_prob=0.0, flip_prob=0.0), num=300)
    assert np.allclose(both.scale_N, unmirrored.scale_N, atol=1e-5)
    assert np.allclose(both.rotation_N, unmirrored.rotation_N, atol=1e-3)


# Half bodies: the upper keypoints spread over 20 x 20 about a mean of (30, 20), the lower over 4 x 40 about (30, 60).
_BODY = np.full((17, 3), 2.0, np.float32)
_BODY[:11, 0], _BODY[:11, 1] = [30, 30, 30, 30, 30, 20, 40, 30, 30, 30, 30], range(10, 31, 2)
_BODY[11:, 0], _BODY[11:, 1] = [28, 32] * 3, [40, 40, 60, 60, 80, 80]
_UPPER = (30, 20, 1.5 * 20)  # wider than 3:4, so the height grows: the width stays 20
_LOWER = (30, 60, 1.5 * 40 * 0.75)  # narrower, so the width grows to 30


def _half_bodies(body_K3: npt.NDArray[np.float32], probability: float, num: int) -> F64:
    """Centre and width of the crops [N, 3]."""
    instances = make_instances([1] * num, keypoints_NK3=np.repeat(body_K3[None], num, axis=0))
    augment = PLAIN.model_copy(update={"half_body_prob": probability})
    drawn = _read_back(draw_views(instances, 1, seed=5, augment=augment, size_wh=SIZE_WH), 1.0)
    return np.concatenate([drawn.center_N2, drawn.scale_N[:, None]], axis=1)


def test_a_half_body_is_the_upper_or_lower_half_around_the_mean_of_its_keypoints() -> None:
    crops = _half_bodies(_BODY, 1.0, NUM)
    upper_N = np.isclose(crops, _UPPER, atol=1e-3).all(axis=1)
    lower_N = np.isclose(crops, _LOWER, atol=1e-3).all(axis=1)
    assert (upper_N ^ lower_N).all()
    # HRNet chooses the upper half if a normal is below 0.5, which has a probability of 69 %.
    assert _near(upper_N.mean(), _below(0.5))


def test_the_share_of_half_bodies_is_the_setting() -> None:
    plain = _half_bodies(_BODY, 0.0, 1)[0]
    assert _near(np.isclose(_half_bodies(_BODY, 0.3, NUM), plain, atol=1e-3).all(axis=1).mean(), 0.7)


def test_eight_labelled_keypoints_are_too_few_for_a_half_body() -> None:
    body = _BODY.copy()
    body[8:, 2] = 0
    assert np.allclose(_half_bodies(body, 1.0, 50), _half_bodies(body, 0.0, 1)[0], atol=1e-3)


def test_with_two_lower_keypoints_only_the_upper_body_is_used() -> None:
    body = _BODY.copy()
    body[13:, 2] = 0
    assert np.allclose(_half_bodies(body, 1.0, 50), _UPPER, atol=1e-3)


def test_keypoints_without_a_label_do_not_count() -> None:
    body = _BODY.copy()
    body[:2, 2], body[:2, :2] = 0, 1000
    # Nine keypoints are left, y from 14 to 30 and x from 20 to 40: mean (30, 22), width 20.
    upper = (30, 22, 30)
    crops = _half_bodies(body, 1.0, 50)
    assert (np.isclose(crops, upper, atol=1e-3).all(axis=1) | np.isclose(crops, _LOWER, atol=1e-3).all(axis=1)).all()


def test_a_half_body_without_extent_keeps_the_given_crop() -> None:
    body = _BODY.copy()
    body[:, :2] = 30
    assert np.allclose(_half_bodies(body, 1.0, 20), _half_bodies(body, 0.0, 1)[0], atol=1e-3)


GOLDEN_FLIP = [False, True, False, False]
GOLDEN_AFFINE = [
    [0.691482, -2.005281, 43.298344, 2.005281, 0.691482, -24.424562],
    [-1.114303, 0.0, 54.086185, 0.0, 1.114303, 0.799512],
    [1.584998, -1.168611, 13.926186, 1.168611, 1.584998, -43.932438],
    [0.931098, -0.893736, 23.884958, 0.893736, 0.931098, -18.201601],
]


def test_the_draws_equal_the_golden_numbers() -> None:
    """If this fails, draws have changed, and with them every cached target: increase ``VIEWS_VERSION``."""
    instances = make_instances([1] * 4, ids=[1, 2, 425226, 900100581904])
    views = draw_views(instances, 1, seed=0, augment=AugmentSettings(), size_wh=SIZE_WH)
    assert views.flip_N.tolist() == GOLDEN_FLIP
    assert np.allclose(views.affine_N23.reshape(4, 6), GOLDEN_AFFINE, rtol=1e-5, atol=1e-5)
