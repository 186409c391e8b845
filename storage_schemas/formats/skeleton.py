"""A joint set: names of the keypoints, their mirror partners, OKS sigmas, body halves and limbs.

Every instance table carries its skeleton, so arrays, networks and scores take the number of keypoints K from the data.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from storage_schemas.errors import DataError

__all__ = ["Skeleton"]


@dataclass(frozen=True)
class Skeleton:
    """One joint set; ``flip``, ``upper``, ``lower`` and ``limbs`` hold indices of ``keypoints``.

    Raises:
        DataError: the parts do not fit together.
    """

    name: str
    keypoints: tuple[str, ...]
    """Names, in the order of the arrays."""
    flip: tuple[int, ...]
    """For each keypoint, the one that takes its place in a mirrored image."""
    sigmas: tuple[float, ...]
    """Spread of human labels for each keypoint, as a share of sqrt(area) (COCO keypoint evaluation)."""
    upper: tuple[int, ...]
    """The upper half of the body, for the half-body augmentation."""
    lower: tuple[int, ...]
    limbs: tuple[tuple[int, int], ...]
    """Pairs of keypoints that a drawing connects."""

    def __post_init__(self) -> None:
        num = len(self.keypoints)
        self._require(num > 0 and len(set(self.keypoints)) == num, "keypoints", "at least one name, each name once")
        for name in ("flip", "sigmas"):
            self._require(len(getattr(self, name)) == num, name, f"{num} values, one for each keypoint")
        limb_ends = tuple(index for limb in self.limbs for index in limb)
        for name, indices in (("flip", self.flip), ("upper", self.upper), ("lower", self.lower), ("limbs", limb_ends)):
            self._require(all(0 <= index < num for index in indices), name, f"indices from 0 to {num - 1}")
        mirrored_twice = [self.flip[index] for index in self.flip]
        self._require(mirrored_twice == list(range(num)), "flip", "a permutation that undoes itself")
        self._require(all(math.isfinite(s) and s > 0 for s in self.sigmas), "sigmas", "finite numbers above 0")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise DataError(f"The skeleton '{self.name}' has {name} {getattr(self, name)}", allowed=expected)

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints, K."""
        return len(self.keypoints)

    @cached_property
    def sigmas_K(self) -> npt.NDArray[np.float64]:
        """``sigmas`` as a read-only array."""
        sigmas_K = np.array(self.sigmas, np.float64)
        sigmas_K.setflags(write=False)
        return sigmas_K

    def encode(self) -> bytes:
        """Canonical JSON: equal skeletons give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def decode(data: bytes) -> Skeleton:
        """The inverse of ``encode``; raises ``DataError`` for anything else."""
        try:
            fields: dict[str, Any] = json.loads(data)
            fields["limbs"] = map(tuple, fields["limbs"])
            parts: dict[str, Any] = {name: value if name == "name" else tuple(value) for name, value in fields.items()}
            return Skeleton(**parts)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{data[:80]!r} is not a skeleton: {error}", allowed="the JSON that odkd writes") from error
