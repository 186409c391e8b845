"""The keypoints of one COCO annotation: a flat list of x, y and v for each joint of the skeleton.

With v = 0 a joint has no label, and its coordinates mean nothing: tools write NaN, null or any number there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.data.json_file import finite_numbers, show

__all__ = ["KeypointsError", "labelled_keypoints", "plain_keypoints"]

_MAX_OUTSIDE = 0.5
_LABELS = frozenset((0.0, 1.0, 2.0))

F64 = npt.NDArray[np.float64]


class KeypointsError(ValueError):
    """Keypoints that cannot be used; the text names the joint and its values."""


def labelled_keypoints(given: object, *, names: Sequence[str], image_wh: tuple[int, int]) -> F64:
    """Keypoints (K, 3), with zeros for a joint without a label; all zeros if the annotation has none.

    Raises:
        KeypointsError: not three values for each joint, a wrong v, or a labelled joint that is no point near the image.
    """
    keypoints_K3 = np.array(plain_keypoints(given, names=names), np.float64).reshape(-1, 3)
    keypoints_K3[keypoints_K3[:, 2] == 0] = 0.0
    for side, position_K in zip(image_wh, keypoints_K3.T, strict=False):
        if position_K.min() < -_MAX_OUTSIDE * side or position_K.max() > (1 + _MAX_OUTSIDE) * side:
            wrong = int(np.argmax(np.abs(position_K - side / 2)))
            raise KeypointsError(
                f"a labelled keypoint far outside of the image of {image_wh[0]} x {image_wh[1]}: "
                f"{names[wrong]} is at {show(keypoints_K3[wrong, :2].tolist())}"
            )
    return keypoints_K3


def plain_keypoints(given: object, *, names: Sequence[str]) -> list[Any]:
    """The flat list of finite numbers; zeros take the place of a joint without a label whose values are not such numbers.

    Raises:
        KeypointsError: not three values for each joint, a wrong v, or a labelled joint that is not finite.
    """
    count = 3 * len(names)
    if given is None or given == []:
        return [0] * count
    numbers = finite_numbers(given, count)
    if isinstance(given, list) and numbers is not None and _LABELS.issuperset(numbers[2::3]):
        return given
    if not isinstance(given, list) or len(given) != count:
        raise KeypointsError(f"{f'{len(given)} values' if isinstance(given, list) else show(given)}, not {count} numbers")
    return [value for number, name in enumerate(names) for value in _joint(given[3 * number : 3 * number + 3], name)]


def _joint(xyv: list[Any], name: str) -> list[Any]:
    """One joint of a list that holds other values than finite numbers."""
    if all(map(_is_missing, xyv)):
        return [0, 0, 0]
    label = finite_numbers(xyv[2:], 1)
    if label is None or label[0] not in _LABELS:
        raise KeypointsError(f"a v that is not 0, 1 or 2: {name} is {show(xyv)}")
    point = finite_numbers(xyv[:2], 2)
    if label[0] == 0:
        return [*(xyv[:2] if point else (0, 0)), 0]
    if point is None:
        raise KeypointsError(f"a labelled keypoint that is not finite numbers: {name} is {show(xyv)}")
    return xyv


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
