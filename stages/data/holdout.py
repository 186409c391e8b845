"""Held-out instances: training instances that no network trains on. The decoder is chosen on them.

A hash of the image id alone chooses the images, so other images do not change the choice, and it is the same for all
instances of an image.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.data.labels import labelled
from storage_schemas.formats.instances import Instances, read_instances

__all__ = ["count_held_out", "held_out", "is_held_out"]


def is_held_out(image_id: int, fraction: float) -> bool:
    """Whether the image is among the ``fraction`` of images that training does not use."""
    digest = hashlib.sha256(f"holdout {image_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def held_out(instances: Instances, fraction: float) -> npt.NDArray[np.bool_]:
    """For each instance [N], whether its image is held out."""
    of_image_M = np.array([is_held_out(image_id, fraction) for image_id in instances.image_id_M.tolist()], np.bool_)
    return of_image_M[instances.image_N]


@lru_cache(maxsize=8)
def count_held_out(table: Path, fraction: float) -> int:
    """How many labelled instances of an instance table are held out; a run asks many times, and a table never changes."""
    instances = read_instances(table)
    return int((held_out(instances, fraction) & labelled(instances)).sum())
