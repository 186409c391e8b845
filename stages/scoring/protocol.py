"""The AP protocol: everything that an AP depends on besides the network's weights and the instances.

One value yields both the part of an evaluation's key and the sentence that is printed with every AP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.pose.flip import FlipTest
from stages.settings import DecoderName, Settings
from storage_schemas.errors import DataError
from storage_schemas.paths.facts import known_facts_of
from storage_schemas.paths.local import LocalPath

__all__ = ["GROUND_TRUTH_BOXES", "Counts", "DecoderChoice", "DetectedBoxes", "Protocol"]

GROUND_TRUTH_BOXES = "ground-truth boxes"
"""The name of the annotated boxes in the printed protocol."""

_ALLOWED_BOXES = "an existing COCO detections file"
_FLIP_TEXTS: Mapping[FlipTest, str] = {"exact": "exact flip test", "hrnet": "flip test as in HRNet", False: "no flip test"}


@dataclass(frozen=True)
class DetectedBoxes:
    """The boxes of a detections file. The key holds the hash of the file; the printed protocol holds its name."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> DetectedBoxes:
        """The boxes in ``path`` (``evaluate.boxes``).

        Raises:
            DataError: ``path`` is missing, is not a file, or cannot be read.
        """
        try:
            if path.exists() and not path.is_file():
                raise DataError(f"The detections file {path} (evaluate.boxes) is not a file", allowed=_ALLOWED_BOXES)
            return cls(path, known_facts_of(LocalPath(path)).sha256)
        except FileNotFoundError as error:
            raise DataError(f"The detections file {path} (evaluate.boxes) is missing", allowed=_ALLOWED_BOXES) from error
        except OSError as error:
            seen = f"The detections file {path} (evaluate.boxes) cannot be read: {error.strerror}"
            raise DataError(seen, allowed=_ALLOWED_BOXES) from error


@dataclass(frozen=True)
class Counts:
    """How many images and annotated instances are scored, and how many boxes were detected (None with annotated boxes)."""

    images: int
    instances: int
    detected: int | None = None


@dataclass(frozen=True)
class Protocol:
    """How the AP of one network is measured; the defaults are HRNet's (lib/dataset/coco.py)."""

    crop_wh: tuple[int, int]
    """Size (w, h) of the crop in pixels, which is the input of the teachers."""
    size_divisor: int = 1
    """The network's input is the crop's size divided by this."""
    boxes: DetectedBoxes | None = None
    """None means the annotated boxes."""
    flip: FlipTest = "exact"
    min_keypoint_score: float = 0.2
    """An instance's score is its box's score times the mean of the keypoint scores above this."""
    nms_threshold: float = 0.9
    """Of two predictions in one image with a higher OKS than this, the one with the lower score is dropped."""

    @classmethod
    def of(cls, settings: Settings, *, size_divisor: int = 1, boxes: Path | None = None) -> Protocol:
        """The protocol that ``settings`` ask for, with the boxes of the detections file ``boxes``.

        Raises:
            DataError: as ``DetectedBoxes.of``.
        """
        return cls(
            crop_wh=settings.crop.size_wh,
            size_divisor=size_divisor,
            boxes=None if boxes is None else DetectedBoxes.of(boxes),
            flip=settings.evaluate.flip,
            min_keypoint_score=settings.evaluate.min_keypoint_score,
            nms_threshold=settings.evaluate.nms_threshold,
        )

    @property
    def input_wh(self) -> tuple[int, int]:
        """Size (w, h) of the network's input in pixels."""
        return self.crop_wh[0] // self.size_divisor, self.crop_wh[1] // self.size_divisor

    def as_recipe(self) -> dict[str, Any]:
        """The part of an evaluation's key. No decoder: one evaluation scores by every decoder."""
        return {
            "boxes": None if self.boxes is None else self.boxes.sha256,
            "crop_wh": list(self.crop_wh),
            "size_divisor": self.size_divisor,
            "flip": self.flip,
            "min_keypoint_score": self.min_keypoint_score,
            "nms_threshold": self.nms_threshold,
        }

    @staticmethod
    def is_on_ground_truth(recipe: Mapping[str, Any]) -> bool:
        """Whether ``recipe``, made by ``as_recipe``, uses the annotated boxes instead of detected ones."""
        return recipe["boxes"] is None

    def sentence(self, *, decoder: DecoderName, student: str, arms: Sequence[str], counts: Counts) -> str:
        """The protocol of all rows of the AP table in one line.

        Args:
            decoder: the decoder of all rows.
            student: the name of the student's network.
            arms: the rows that are scored on ``boxes``; teachers and cached targets always have the annotated boxes.
            counts: what the validation set holds.
        """
        return ", ".join(
            [
                self._boxes_text(arms),
                _FLIP_TEXTS[self.flip],
                f"decoder {decoder}",
                f"teachers' input {_size_text(self.crop_wh)}",
                f"student {student} at {_size_text(self.input_wh)}",
                f"keypoint scores above {self.min_keypoint_score}",
                f"OKS-NMS {self.nms_threshold}",
                f"{counts.instances} instances on {counts.images} images",
                *([] if counts.detected is None else [f"{counts.detected} detected boxes"]),
            ]
        )

    def _boxes_text(self, arms: Sequence[str]) -> str:
        if self.boxes is None:
            return GROUND_TRUTH_BOXES
        others = f"{GROUND_TRUTH_BOXES} for teachers and cached targets"
        return f"boxes of the {' and '.join(arms)} from {self.boxes.path.name}, {others}"


@dataclass(frozen=True)
class DecoderChoice:
    """The one decoder of all rows of the AP table, and how it was chosen."""

    decoder: DecoderName
    by: Literal["setting", "default", "held_out"]
    """``default``: the setting is ``auto`` but no instances are held out to choose on."""
    arms: Sequence[str] = ()
    instances: int = 0
    """Held-out training instances that the choice was made on."""
    mean_ap: Mapping[DecoderName, float] | None = None
    """Mean AP of ``arms`` on the held-out instances, by decoder."""

    @property
    def reason(self) -> str:
        """How it was chosen, as text for the report."""
        if self.by == "setting":
            return "set by evaluate.decoder"
        if self.mean_ap is None:
            return "HRNet's default, because no instances are held out to choose on (prepare.holdout_fraction)"
        scores = ", ".join(f"{decoder} {value:.3f}" for decoder, value in self.mean_ap.items())
        return f"best mean AP of {' and '.join(self.arms)} on {self.instances} held-out training instances: {scores}"


def _size_text(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
