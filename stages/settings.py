"""Every setting there is, as strict models with the meaning beside each; ``pipeline.config`` reads them from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from stages.networks.spec import is_network, known_networks
from storage_schemas.paths.path import StorePath, parse_path

__all__ = [
    "AugmentSettings",
    "BinarizeSettings",
    "ClusterSettings",
    "CropSettings",
    "DataSettings",
    "DecoderName",
    "DistillSettings",
    "EmbeddedData",
    "EvaluateSettings",
    "Network",
    "NetworkSource",
    "Phase",
    "Precision",
    "PrepareSettings",
    "ReportSettings",
    "Role",
    "ScheduleName",
    "Section",
    "SeniorSettings",
    "Settings",
    "Split",
    "SplitSource",
    "TargetsSettings",
    "TeacherSource",
    "TeachersSettings",
    "TrainSettings",
    "ViewsSettings",
]

Role = Literal["primary", "senior"]
Split = Literal["train", "val"]
Precision = Literal["auto", "float32", "bfloat16"]
DecoderName = Literal["quarter", "dark", "centroid"]
ScheduleName = Literal["none", "primary", "senior", "together", "primary_then_senior", "senior_then_primary", "blend"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


P = TypeVar("P", Path, StorePath)


def _data_path(value: object) -> StorePath:
    if not isinstance(value, str | Path | StorePath):
        raise PydanticCustomError("path_type", "Input is not a valid path")
    return _absolute(parse_path(str(value)))


def _absolute(path: P) -> P:
    if not path.is_absolute():
        raise ValueError(f"'{path}' is relative; a submitted job runs in another folder, so paths must be absolute")
    return path


def _known_network(name: str) -> str:
    if not is_network(name):
        raise ValueError(f"'{name}' is not the name of a network; give {known_networks()}")
    return name


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Network = Annotated[str, AfterValidator(_known_network)]
"""A name of ``stages.networks.spec.NETWORKS``, such as ``hrnet_w16_small``."""
DataPath = Annotated[StorePath, PlainValidator(_data_path), PlainSerializer(str)]
"""A file or folder of the data set, on a file system that all nodes see or in a bucket."""


class Section(BaseModel):
    """The base of every part of the configuration: unknown keys are refused and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class EmbeddedData(Section):
    """The drawn data set, for a machine without data; the same on every machine for the same seed."""

    train_images: Count = 900
    val_images: Count = 200
    seed: int = 0


class SplitSource(Section):
    """One half of a COCO-format data set."""

    annotations: DataPath
    images: DataPath


class DataSettings(Section):
    """Where people come from: the embedded data set, or a training and a validation set in COCO's format."""

    embedded: EmbeddedData | None = None
    train: SplitSource | None = None
    val: SplitSource | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.embedded is None) == (self.train is None) or (self.train is None) != (self.val is None):
            raise ValueError("give either 'embedded', or both 'train' and 'val'")
        return self


class CropSettings(Section):
    """The crop that teachers see; heatmaps are a quarter of it in each direction."""

    size_wh: tuple[Count, Count] = (192, 256)

    @model_validator(mode="after")
    def _whole_cells(self) -> Self:
        # Four halvings of the heatmap's stride: HRNet's lowest branch has one cell for 32 input pixels.
        if self.size_wh[0] % 32 or self.size_wh[1] % 32:
            raise ValueError(f"size_wh {self.size_wh} must be multiples of 32, as in (192, 256) or (288, 384)")
        return self


class PrepareSettings(Section):
    """Reading and checking a data set."""

    max_bad_fraction: Fraction = 0.001
    """More quarantined records than this share fail the stage."""
    holdout_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of training images that no network trains on; the decoder is chosen on them."""
    crops: bool = False
    """Also store a window of the picture around each person as JPEG, which is decoded in the picture's place: teachers and
    students learn from these pixels, so their keys differ from those of whole pictures."""


class AugmentSettings(Section):
    """How a view is drawn (HRNet, lib/dataset/JointsDataset.py)."""

    scale: Annotated[float, Field(ge=0, lt=1)] = 0.35
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 45.0
    rotation_prob: Fraction = 0.6
    flip_prob: Fraction = 0.5
    half_body_prob: Fraction = 0.3


class ViewsSettings(Section):
    """The crops that a student sees: epoch e trains on view 1 + (e mod count), or on view 0 (plain) where count is 0."""

    count: Annotated[int, Field(ge=0)] = 4
    seed: int = 0
    augment: AugmentSettings = AugmentSettings()


class TrainSettings(Section):
    """How a network is trained."""

    epochs: Count = 210
    batch_size: Count = 128
    """People in a step, over all workers together."""
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: Literal["steps", "one_cycle"] = "steps"
    """``steps``: a tenth after 170/210 of the epochs and again after 200/210 (HRNet); ``one_cycle``: up, then down to 0."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    unbiased: bool = False
    """Draw ground-truth Gaussians at the joint's exact place (DarkPose) and not at the nearest heatmap pixel (HRNet)."""
    precision: Precision = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 means one for each GPU that is up (as many as share the batch evenly), or one without GPUs."""
    loader_threads: Annotated[int, Field(ge=0)] = 0
    """Threads that decode pictures beside each training process; 0 means as many as its CPUs, less one."""

    @model_validator(mode="after")
    def _batch_is_shared_evenly(self) -> Self:
        if self.workers and self.batch_size % self.workers:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared evenly by {self.workers} workers; it must be a multiple of them"
            )
        return self


class NetworkSource(Section):
    """A network by name, by its weights, or both; the same for the primary, the base of the senior and the student."""

    weights: AbsolutePath | None = None
    """Weights of ``network`` as .pth or .safetensors, or a whole network as .pt2 (torch.export) or .onnx."""
    network: Network | None = None
    """The name of the network; leave it out where ``weights`` is a whole network."""

    @property
    def is_whole(self) -> bool:
        """Whether ``weights`` holds the network as well."""
        return self.weights is not None and self.weights.suffix in (".pt2", ".onnx")

    @model_validator(mode="after")
    def _names_one_network(self) -> Self:
        if self.is_whole and self.network:
            raise ValueError(f"'{self.weights}' is a whole network: leave out 'network'")
        if not self.is_whole and self.network is None:
            raise ValueError("give 'network', unless 'weights' is a .pt2 or .onnx file")
        return self


class TeacherSource(NetworkSource):
    """A teacher: either given weights, or a network that is trained from ground truth."""

    train: TrainSettings | None = None

    @model_validator(mode="after")
    def _is_given_or_trained(self) -> Self:
        if self.is_whole and self.train:
            raise ValueError(f"'{self.weights}' is a whole network: leave out 'train'")
        if not self.is_whole and (self.weights is None) == (self.train is None):
            raise ValueError("give either 'weights' or 'train'")
        return self


class SeniorSettings(Section):
    """The senior: the primary (or ``base``) with a mask adapter, trained on people who have a mask."""

    base: TeacherSource | None = None
    """The network under the adapter, where it is not the primary: an ONNX primary cannot be trained, its .pt2 can."""
    train: TrainSettings = TrainSettings(epochs=6, batch_size=16, lr=3e-5, lr_schedule="one_cycle")
    adapter_lr: Positive = 1e-3
    """The adapter learns fast and the network under it, at ``train.lr``, slowly: a high rate on few people destroys it."""
    mask_drop: Fraction = 0.1
    """Share of people whose mask is withheld in a step, so that no mask means 'unknown' and not 'nobody'."""
    control: bool = False
    """Also train the base in the same way without a mask: what of the senior's gain is the mask's."""


class TeachersSettings(Section):
    """The two teachers."""

    primary: TeacherSource
    senior: SeniorSettings = SeniorSettings()

    @model_validator(mode="after")
    def _senior_can_be_trained(self) -> Self:
        under = self.senior.base or self.primary
        if under.weights is not None and under.weights.suffix == ".onnx":
            raise ValueError(
                f"the senior is trained, and '{under.weights.name}' is ONNX, which cannot be: "
                "give senior.base.weights with the same network as .pt2 (torch.export) or .pth"
            )
        return self


class BinarizeSettings(Section):
    """How a teacher's heatmap becomes bits."""

    mode: Literal["relative", "absolute"] = "relative"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the map's own peak (relative), or of 1 (absolute)."""
    min_peak: Fraction = 0.2
    """A map whose peak is lower has no bits, and its joint is not taught."""
    keep: Literal["peak_component", "all"] = "peak_component"


class TargetsSettings(Section):
    """Running the teachers once and caching what they say."""

    precision: Precision = "auto"
    batch_size: Count = 32
    extra_binarizations: tuple[BinarizeSettings, ...] = ()
    """Further binarizations that the same pass of the teachers leaves, for a sweep over them."""
    max_bad_fraction: Fraction = 0.001
    """More heatmaps that are not finite than this share fail the stage."""


class Phase(Section):
    """A stretch of epochs with one set of weights."""

    epochs: Count
    ground_truth: Annotated[float, Field(ge=0)] = 0.0
    primary: Annotated[float, Field(ge=0)] = 0.0
    senior: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.ground_truth + self.primary + self.senior <= 0:
            raise ValueError("a phase needs a weight above zero for ground_truth, primary or senior")
        return self


class DistillSettings(TrainSettings):
    """Training the student (and, to compare, the same student without teachers)."""

    student: NetworkSource = NetworkSource(network="hrnet_w16")
    size_divisor: Literal[1, 2] = 1
    """The student's input is the crop's size divided by this; cached bits are averaged over the larger cells."""
    schedule: ScheduleName | tuple[Phase, ...] = "primary_then_senior"
    teacher_weight: Fraction = 0.5
    """Share of the teachers in a named schedule; the rest is ground truth."""
    switch: Fraction = 0.5
    """Share of the taught epochs after which a named schedule goes from one teacher to the other."""
    finish: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the epochs, the last ones, in which a named schedule leaves the student to ground truth alone."""
    seed: int = 0
    baseline: bool = True
    """Also train the same student equally long without teachers."""

    @model_validator(mode="after")
    def _student_starts_from_random_weights(self) -> Self:
        if self.student.weights is not None:
            raise ValueError(
                f"student.weights is '{self.student.weights}', but a student starts from random weights: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _both_teachers_have_an_epoch(self) -> Self:
        if self.schedule in ("primary_then_senior", "senior_then_primary") and 0 < self.switch < 1 and self.epochs < 2:
            raise ValueError(f"{self.schedule} needs at least 2 epochs, one for each teacher; 'primary' or 'senior' needs 1")
        return self

    @model_validator(mode="after")
    def _phases_fill_the_epochs(self) -> Self:
        if isinstance(self.schedule, tuple):
            total = sum(phase.epochs for phase in self.schedule)
            if total != self.epochs:
                raise ValueError(f"the phases have {total} epochs where distill.epochs is {self.epochs}")
        return self


class EvaluateSettings(Section):
    """Predicting on the validation set and scoring."""

    boxes: AbsolutePath | None = None
    """A COCO detections file for student and baseline; without it, ground-truth boxes. Teachers always have
    ground-truth boxes, since only annotated people have masks."""
    flip: bool = True
    decoder: DecoderName | Literal["auto"] = "auto"
    """``auto``: the one that is best, over student and baseline together, on training people held out for it."""
    batch_size: Count = 32
    min_keypoint_score: Fraction = 0.2
    """A person's score is the box's times the mean of the keypoints' scores above this (HRNet, lib/dataset/coco.py)."""
    nms_threshold: Fraction = 0.9


class ReportSettings(Section):
    """The page."""

    overlays: Count = 8
    worst: Count = 8


class ClusterSettings(Section):
    """What the work may use."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU if the cluster has one now; say ``cuda`` where the autoscaler starts GPU nodes from none."""
    gpus_per_task: Annotated[float, Field(ge=0, le=1)] = 1.0
    """GPUs of one teacher or evaluation task on a cluster that has some."""
    cpus_per_task: Count = 1
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a lost training worker is replaced before the stage fails."""


class Settings(Section):
    """The whole configuration of an experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
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
    def _student_fits(self) -> Self:
        unit = 32 * self.distill.size_divisor
        if self.crop.size_wh[0] % unit or self.crop.size_wh[1] % unit:
            raise ValueError(f"crop.size_wh {self.crop.size_wh} divided by distill.size_divisor must be multiples of 32")
        return self
