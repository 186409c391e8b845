"""Every setting as strict models, with its meaning beside it; ``pipeline.config`` reads them from files."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.setting_types import (
    AbsolutePath,
    Count,
    DataPath,
    FlipTest,
    Fraction,
    NetworkSource,
    Positive,
    Precision,
    Section,
    Seed,
    Side,
)
from stages.training_settings import DistillSettings, Phase, ScheduleName, TrainSettings

__all__ = [
    "AugmentSettings", "BinarizeSettings", "ClusterSettings", "CropSettings", "DataSettings", "DecoderName",
    "DistillSettings", "EmbeddedData", "EvaluateSettings", "NetworkSource", "Phase", "Precision", "PrepareSettings",
    "ReportSettings", "Role", "ScheduleName", "SeniorSettings", "Settings", "Split", "SplitSource", "TargetsSettings",
    "TeacherSource", "TeachersSettings", "TrainSettings", "ViewsSettings",
]  # fmt: skip

Role = Literal["primary", "senior"]
Split = Literal["train", "val"]
DecoderName = Literal["quarter", "dark", "centroid", "soft_argmax"]


class EmbeddedData(Section):
    """The synthetic dataset, for a machine without data; the same seed draws the same dataset on every machine."""

    train_images: Count = 900
    val_images: Count = 200
    unlabelled: Fraction = 0.0
    """Share of the training people without a labelled keypoint, as in photographs: labels cost work, and boxes little."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def recipe(self) -> dict[str, int | float]:
        """What the data set depends on. Where all are labelled, it is that of earlier releases."""
        return self.model_dump(exclude=None if self.unlabelled else {"unlabelled"})


class SplitSource(Section):
    """One split of a dataset in COCO format."""

    annotations: DataPath
    """The json file with the annotations."""
    images: DataPath
    """The folder that the file names of the images start from."""


class DataSettings(Section):
    """The dataset: the embedded one, or a training and a validation set in COCO format."""

    embedded: EmbeddedData | None = None
    train: SplitSource | None = None
    val: SplitSource | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.embedded is None) == (self.train is None) or (self.train is None) != (self.val is None):
            raise ValueError("give either 'embedded', or both 'train' and 'val'")
        return self


class CropSettings(Section):
    """The crop that the teachers see; their heatmaps have a quarter of its width and height."""

    size_wh: tuple[Side, Side] = (192, 256)
    """Width and height in pixels."""

    @model_validator(mode="after")
    def _whole_cells(self) -> Self:
        # HRNet's smallest branch has one cell for 32 input pixels.
        if self.size_wh[0] % 32 or self.size_wh[1] % 32:
            raise ValueError(f"size_wh {self.size_wh} must be multiples of 32, as in (192, 256) or (288, 384)")
        return self


class PrepareSettings(Section):
    """Reading and checking a dataset."""

    max_bad_fraction: Fraction = 0.001
    """The stage fails if it quarantines a larger share of the records than this."""
    holdout_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the training images that no network trains on. The decoder is chosen on them."""
    crops: bool = False
    """Store a window of the image around each instance as JPEG, and read it instead of the image. The pixels differ a
    little, so the keys of all later entries differ too."""


class AugmentSettings(Section):
    """The random changes of a view (HRNet, lib/dataset/JointsDataset.py)."""

    scale: Annotated[float, Field(ge=0, lt=1)] = 0.35
    """Standard deviation of the scale factor around 1, cut off at 1 minus and 1 plus this value."""
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 45.0
    """Standard deviation of the angle in degrees, cut off at twice this value."""
    rotation_prob: Fraction = 0.6
    flip_prob: Fraction = 0.5
    half_body_prob: Fraction = 0.3
    """Probability of a crop around the upper or the lower half of the body alone."""


class ViewsSettings(Section):
    """The crops that a student trains on: epoch e uses view 1 + (e mod count), or view 0 (the plain crop) if count is 0."""

    count: Annotated[int, Field(ge=0, le=10_000)] = 4
    """Number of augmented views. More views give more variety, and take the teachers more time."""
    seed: Seed = 0
    augment: AugmentSettings = AugmentSettings()


class TeacherSource(NetworkSource):
    """A teacher: either given weights, or a network that is trained from ground truth."""

    train: TrainSettings | None = None

    @model_validator(mode="after")
    def _is_given_or_trained(self) -> Self:
        if self.is_whole and self.train:
            raise ValueError(f"'{self.weights}' is a whole network: remove 'train'")
        if not self.is_whole and (self.weights is None) == (self.train is None):
            raise ValueError("give either 'weights' or 'train'")
        return self


class SeniorSettings(Section):
    """The senior teacher: the primary (or ``base``) with a mask adapter, trained on the instances that have a mask."""

    base: TeacherSource | None = None
    """The network that the adapter is added to, if it is not the primary. An ONNX primary needs one: ONNX cannot be trained."""
    train: TrainSettings = TrainSettings(epochs=6, batch_size=16, lr=3e-5, lr_schedule="one_cycle")
    adapter_lr: Positive = 1e-3
    """Learning rate of the adapter. ``train.lr`` is that of the network, and should be low: a high rate on few instances makes
    a trained network worse."""
    mask_drop: Fraction = 0.1
    """Share of instances in a step whose mask is withheld, so that the senior learns to work without one."""
    control: bool = False
    """Also train the base in the same way but without masks, to measure how much of the senior's gain comes from the mask."""


class TeachersSettings(Section):
    """The two teachers."""

    primary: TeacherSource
    senior: SeniorSettings = SeniorSettings()

    @model_validator(mode="after")
    def _senior_can_be_trained(self) -> Self:
        base = self.senior.base or self.primary
        if base.weights is not None and base.weights.suffix == ".onnx":
            raise ValueError(
                f"'{base.weights.name}' is ONNX and cannot be trained, but the senior is trained from it: "
                "give the same network as .pt2 (torch.export) or .pth in senior.base.weights"
            )
        return self


class BinarizeSettings(Section):
    """The rule that turns a teacher's heatmap into bits."""

    mode: Literal["relative", "absolute"] = "relative"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A cell becomes 1 from this share of the map's own peak (relative), or from this value (absolute)."""
    min_peak: Fraction = 0.2
    """A map with a lower peak gets no bits, and the student does not learn this joint from the teacher."""
    keep: Literal["peak_component", "all"] = "peak_component"
    """``peak_component``: keep only the connected cells around the peak. ``all``: keep every cell above the threshold."""


class TargetsSettings(Section):
    """Running the teachers once and caching their bits."""

    precision: Precision = "auto"
    batch_size: Count = 32
    extra_binarizations: tuple[BinarizeSettings, ...] = ()
    """More binarization rules for the same pass of the teachers, to compare rules without running the teachers again."""
    max_bad_fraction: Fraction = 0.001
    """The stage fails if a larger share of the heatmaps than this is not finite or zero everywhere."""


class EvaluateSettings(Section):
    """Scoring the networks on the validation set (the AP protocol)."""

    boxes: AbsolutePath | None = None
    """A COCO detections file with the boxes for student and baseline; without it they get ground-truth boxes. Teachers always
    get ground-truth boxes, because only annotated instances have masks."""
    flip: FlipTest = "exact"
    """Flip test: average the heatmaps of the crop and of its mirror image. ``hrnet`` is the published way, to compare with
    published figures; it moves keypoints by half a pixel of the crop (``stages.pose.flip``). false: no flip test."""
    decoder: DecoderName | Literal["auto"] = "auto"
    """One decoder for all rows of the AP table. ``auto``: the best one for student and baseline together on the held-out
    training instances."""
    batch_size: Count = 32
    min_keypoint_score: Fraction = 0.2
    """An instance's score is its box score times the mean of the keypoint scores above this (HRNet, lib/dataset/coco.py)."""
    nms_threshold: Fraction = 0.9
    """OKS-NMS drops the lower-scored of two predictions in an image whose OKS is above this."""


class ReportSettings(Section):
    """The report's page."""

    overlays: Count = 8
    """Number of instances to show, spread from best to worst."""
    worst: Count = 8
    """Number of the student's worst cases to show."""


class ClusterSettings(Section):
    """The resources of the work."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: use GPUs if the cluster has one now. Set ``cuda`` if the autoscaler must first start a GPU node."""
    gpus_per_task: Annotated[float, Field(ge=0, le=1)] = 1.0
    """GPUs for one teacher or evaluation task, on a cluster with GPUs."""
    cpus_per_task: Count = 1
    max_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    """How many times a lost training worker is replaced before the stage fails."""


class Settings(Section):
    """The whole configuration of an experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The experiment's folder under ``runs/``."""
    data: DataSettings
    crop: CropSettings = CropSettings()
    prepare: PrepareSettings = PrepareSettings()
    teachers: TeachersSettings
    views: ViewsSettings = ViewsSettings()
    binarize: BinarizeSettings = BinarizeSettings()
    targets: TargetsSettings = TargetsSettings()
    distill: DistillSettings = DistillSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="after")
    def _somebody_is_held_out(self) -> Self:
        if self.distill.validate_every and not self.prepare.holdout_fraction:
            raise ValueError("distill.validate_every scores held-out people: prepare.holdout_fraction must be above 0")
        return self

    @model_validator(mode="after")
    def _student_fits(self) -> Self:
        unit = 32 * self.distill.size_divisor
        if self.crop.size_wh[0] % unit or self.crop.size_wh[1] % unit:
            raise ValueError(
                f"crop.size_wh {self.crop.size_wh} divided by distill.size_divisor must be a multiple of 32 in each direction"
            )
        return self
