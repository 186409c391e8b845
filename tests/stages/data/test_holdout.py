"""Which images and instances are held out from training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.data.holdout import count_held_out, held_out, is_held_out
from storage_schemas.formats.instances import write_instances
from tests.support.instance_samples import make_instances


def test_holding_out_depends_on_the_image_id_alone() -> None:
    held = {image_id for image_id in range(10_000) if is_held_out(image_id, 0.1)}
    # 1,000 expected, with a deviation of 30.
    assert 900 < len(held) < 1100
    assert not any(is_held_out(image_id, 0.0) for image_id in range(100))
    assert all(is_held_out(image_id, 1.0) for image_id in range(100))
    assert held < {image_id for image_id in range(10_000) if is_held_out(image_id, 0.2)}


def test_all_instances_of_an_image_are_held_out_together(tmp_path: Path) -> None:
    images = [key // 2 for key in range(80)]
    expected = [is_held_out(image_id, 0.1) for image_id in images]
    assert 0 < sum(expected) < 80
    for order in (1, -1):
        assert held_out(make_instances(images[::order]), 0.1).tolist() == expected[::order]
    write_instances(tmp_path / "table", make_instances(images))
    assert count_held_out(tmp_path / "table", 0.1) == sum(expected)


def test_people_without_labels_are_not_counted(tmp_path: Path) -> None:
    held = [image_id for image_id in range(100) if is_held_out(image_id, 0.1)]
    keypoints = np.zeros((len(held), 17, 3), np.float32)
    keypoints[::2, 4] = (5, 5, 2)
    write_instances(tmp_path / "table", make_instances(held, keypoints_NK3=keypoints))
    assert count_held_out(tmp_path / "table", 0.1) == len(held[::2])
