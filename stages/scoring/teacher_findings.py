"""What a teacher's predictions on the validation set say about it: an AP near zero, exchanged sides, exchanged colours.

Shape letters: N instances, K joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.base import Context
from stages.data.windows import ImageSource
from stages.distributed.predict import predict
from stages.findings import Finding
from stages.inference import DECODERS
from stages.networks.spec import NetworkSpec
from stages.scoring.instance_scores import score_poses
from stages.scoring.oks import tiny_area_share
from stages.scoring.protocol import Protocol
from stages.settings import DecoderName
from storage_schemas.formats.instances import Instances, write_instances
from storage_schemas.store.store import Draft

__all__ = ["ScoredTeacher", "colour_findings", "crossed_sides", "exchanged_colours", "low_ap", "teacher_swapped"]

_NEAR_ZERO, _LOW = 0.05, 0.7
_SAMPLE = 128
"""Instances on which RGB is compared with BGR."""
_BETTER = 0.03
"""BGR must give an AP that is higher by this. For a small teacher of photographs, the wrong colours cost .06."""
_CROSSED, _PEOPLE = 0.2, 5
"""A pair of joints is exchanged if it is for this share of the people, and for at least as many people."""
_SAMPLE_FILE = "sample.parquet"

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ScoredTeacher:
    """A teacher that was scored on all annotated instances of the validation set."""

    who: str
    is_given: bool
    """Whether its weights are a file of the user; odkd trains its own networks on RGB crops."""
    instances: Instances
    predicted: Mapping[DecoderName, F32]
    measured: Mapping[str, Any]

    @property
    def best(self) -> DecoderName:
        """The decoder with the highest AP."""
        return max(DECODERS, key=lambda decoder: float(self.measured[decoder]["AP"]))

    @property
    def ap(self) -> float:
        """The highest AP."""
        return float(self.measured[self.best]["AP"])


def low_ap(teacher: ScoredTeacher) -> list[Finding]:
    """A finding if the AP is near zero: targets of this teacher are chance."""
    if teacher.ap >= _NEAR_ZERO:
        return []
    remedy = "Train it for more epochs, or check its data"
    if teacher.is_given:
        remedy = "Check its weights, the order of its joints, and how its input is normalised"
    num, share = len(teacher.instances.id_N), tiny_area_share(teacher.instances.area_N, teacher.instances.box_N4)
    if share is not None:
        remedy = (
            f"The annotated areas have a median of {share:.2g} of their boxes, and with such areas the AP of any network is "
            f"near zero: write 'area' in pixels of the image first. {remedy}"
        )
    return [
        Finding(
            kind="ap_near_zero",
            seen=f"The AP of the {teacher.who} on the {num} instances of the validation set is {teacher.ap:.3f}, near zero",
            remedy=remedy,
            count=num,
            of=num,
            example=teacher.who,
        )
    ]


def crossed_sides(label_NK3: npt.NDArray[np.floating], predicted_NK3: F32, pair: tuple[int, int]) -> tuple[Bools, Bools]:
    """Whose joints of ``pair`` are both predicted near the label of the other side, and who has both labels.

    Near is less than half the distance between both labels, so a joint at a chance place is hardly ever counted.
    """
    left, right = pair
    labelled_N: Bools = (label_NK3[:, left, 2] > 0) & (label_NK3[:, right, 2] > 0)
    radius_N = np.linalg.norm(label_NK3[:, left, :2] - label_NK3[:, right, :2], axis=-1) / 2
    crossed_N = labelled_N.copy()
    for predicted, other in ((left, right), (right, left)):
        crossed_N &= np.linalg.norm(predicted_NK3[:, predicted, :2] - label_NK3[:, other, :2], axis=-1) < radius_N
    return crossed_N, labelled_N


def teacher_swapped(teacher: ScoredTeacher) -> list[Finding]:
    """A finding if left and right joints are exchanged, in the labels or in the teacher, for many people."""
    instances, skeleton = teacher.instances, teacher.instances.skeleton
    pairs = [(left, right) for left, right in enumerate(skeleton.flip) if left < right]
    crossed_N, labelled_N = np.zeros((2, len(instances.id_N)), np.bool_)
    names = []
    for pair in pairs:
        crossed, labelled = crossed_sides(instances.keypoints_NK3, teacher.predicted[teacher.best], pair)
        if crossed.sum() >= max(_PEOPLE, _CROSSED * labelled.sum()):
            crossed_N |= crossed
            labelled_N |= labelled
            names.append(" and ".join(skeleton.keypoints[joint] for joint in pair))
    if not names:
        return []
    example = int(instances.id_N[np.flatnonzero(crossed_N)[0]])
    count, of = int(crossed_N.sum()), int(labelled_N.sum())
    return [
        Finding(
            kind="teacher_swapped",
            seen=f"The {teacher.who} finds left joints where the labels have right ones, and the other way round, for {count} "
            f"of {of} people, such as annotation {example} ({', '.join(names)})",
            remedy="Check the order of the joints in the annotation files and in the teacher's output",
            count=count,
            of=of,
            example=f"annotation {example}",
        )
    ]


def exchanged_colours(who: str, *, rgb: float, bgr: float, people: int) -> list[Finding]:
    """A finding if the AP is clearly higher on BGR crops than on RGB crops."""
    if bgr < rgb + _BETTER:
        return []
    return [
        Finding(
            kind="swapped_colours",
            seen=f"On {people} people of the validation set the {who} has AP {rgb:.3f}, and AP {bgr:.3f} if red and blue are "
            "exchanged: it expects BGR images, and odkd gives it RGB",
            remedy="Exchange the first and the last input channel of its first convolution, or export a wrapper that does",
            count=people,
            of=people,
            example=who,
        )
    ]


def colour_findings(
    context: Context, spec: NetworkSpec, draft: Draft, teacher: ScoredTeacher, truth: Mapping[str, Any], images: ImageSource
) -> list[Finding]:
    """Compare RGB with BGR on the first instances, for a given teacher whose AP is low."""
    if not teacher.is_given or teacher.ap >= _LOW:
        return []
    chosen_N = _first_images(teacher.instances)
    some = teacher.instances.select(chosen_N)
    write_instances(draft.work / _SAMPLE_FILE, some)
    bgr = predict(
        context,
        spec,
        draft.file(_SAMPLE_FILE),
        images,
        flip=context.settings.evaluate.flip,
        swap_colours=True,
        precision="float32",
        title=f"evaluate: {teacher.who} with red and blue exchanged",
    )
    protocol = Protocol.of(context.settings)
    image_ids = [int(image_id) for image_id in np.unique(some.image_id_M[some.image_N])]
    ones = np.ones(len(some.id_N))

    def ap(predicted: Mapping[DecoderName, F32]) -> float:
        scored = (score_poses(truth, some, ones, poses, protocol, image_ids=image_ids) for poses in predicted.values())
        return max(float(each.measured["AP"]) for each in scored)

    rgb = {decoder: poses[chosen_N] for decoder, poses in teacher.predicted.items()}
    return exchanged_colours(teacher.who, rgb=ap(rgb), bgr=ap(bgr), people=len(some.id_N))


def _first_images(instances: Instances) -> Bools:
    """The instances on the first images, until there are enough; AP needs whole images."""
    counts = np.bincount(instances.image_N, minlength=len(instances.image_id_M))
    enough = int(np.searchsorted(np.cumsum(counts), _SAMPLE)) + 1
    chosen_N: Bools = instances.image_N < enough
    return chosen_N
