"""People with labels. A hash of the annotation id alone chooses those whose labels are used where only a share may be."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from storage_schemas.formats.instances import Instances

__all__ = ["has_label", "labelled"]


def has_label(annotation_id: int, fraction: float) -> bool:
    """Whether a person is in the share of those whose labels are used; the choice for a smaller share is part of it."""
    digest = hashlib.sha256(f"labelled {annotation_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def labelled(instances: Instances, fraction: float = 1.0) -> npt.NDArray[np.bool_]:
    """For each instance [N], whether it has a labelled joint and is in the share ``fraction`` whose labels are used."""
    found_N = np.logical_or.reduce(instances.keypoints_NK3[..., 2] > 0, axis=1)
    if fraction < 1:
        found_N &= np.array([has_label(number, fraction) for number in instances.id_N.tolist()], np.bool_)
    return np.asarray(found_N)
