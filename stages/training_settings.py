"""The settings of trainings: those of every network, and those of the student and its teachers' order."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.setting_types import Count, Epochs, Fraction, NetworkSource, Positive, Precision, Section, Seed

__all__ = ["DistillSettings", "HardSettings", "Phase", "ScheduleName", "TrainSettings"]

ScheduleName = Literal["none", "primary", "senior", "together", "primary_then_senior", "senior_then_primary", "blend"]


class TrainSettings(Section):
    """The training of a network."""

    epochs: Epochs = 210
    batch_size: Count = 128
    """Instances in a step, over all workers together."""
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: Literal["steps", "one_cycle"] = "steps"
    """``steps``: divide by ten after 170/210 and after 200/210 of the epochs (HRNet). ``one_cycle``: rise, then fall to 0."""
    lr_drop_epochs: tuple[Epochs, ...] | None = None
    """With ``steps``: divide by ten after these epochs instead."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps over which the learning rate rises from 0."""
    unbiased: bool = False
    """Centre the ground-truth Gaussians on the exact position of a joint (DarkPose), not on the nearest pixel (HRNet)."""
    precision: Precision = "auto"
    """``auto``: bfloat16 if the device computes in it, else float32."""
    workers: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Training processes. 0: one for each GPU (as many as divide the batch evenly), or one if there are no GPUs."""
    loader_threads: Annotated[int, Field(ge=0, le=1000)] = 0
    """Threads that decode images for each training process. 0: the number of its CPUs minus one."""

    @model_validator(mode="after")
    def _drops_are_in_order(self) -> Self:
        drops = list(self.lr_drop_epochs or ())
        if drops and (self.lr_schedule != "steps" or drops != sorted(set(drops)) or drops[-1] >= self.epochs):
            raise ValueError(
                f"lr_drop_epochs {drops} needs lr_schedule steps, and epochs in rising order below {self.epochs} (epochs)"
            )
        return self

    @model_validator(mode="after")
    def _batch_is_shared_evenly(self) -> Self:
        if self.workers and self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of the {self.workers} workers")
        return self


class Phase(Section):
    """Some epochs of a schedule with the weights of the loss terms."""

    epochs: Epochs
    ground_truth: Annotated[float, Field(ge=0)] = 0.0
    primary: Annotated[float, Field(ge=0)] = 0.0
    senior: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.ground_truth + self.primary + self.senior <= 0:
            raise ValueError("a phase needs a weight above zero for ground_truth, primary or senior")
        return self


class HardSettings(Section):
    """Changes of the pixels that the student and the baseline see. The teachers have answered for the plain pixels, so their
    targets stay right, and no key of targets changes."""

    joint_cutout: Fraction = 0.0
    """Probability that a crop has squares over one to five of its joints."""
    cutout: Fraction = 0.0
    """Probability that a crop has a rectangle somewhere, with sides of a tenth to two fifths of the crop's."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How much the contrast and the brightness of each channel change at most, in parts of the contrast, and in standard
    deviations."""
    blur: Fraction = 0.0
    """Probability that a crop is blurred."""

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return any((self.joint_cutout, self.cutout, self.colour, self.blur))


class DistillSettings(TrainSettings):
    """Training the student, and the same student without teachers for comparison."""

    student: NetworkSource = NetworkSource(network="hrnet_w16")
    size_divisor: Literal[1, 2] = 1
    """The student's input is the crop's size divided by this; the cached bits are averaged over its larger cells."""
    schedule: ScheduleName | tuple[Phase, ...] = "primary_then_senior"
    """Which teacher teaches when: a name, or a list of phases."""
    teacher_weight: Fraction = 0.5
    """Weight of the teachers in a named schedule; the rest is the weight of the ground truth."""
    switch: Fraction = 0.5
    """Share of the epochs with a teacher after which a named schedule changes from one teacher to the other."""
    finish: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the epochs at the end of a named schedule that use ground truth alone."""
    binarize_labels: bool = False
    """Turn the Gaussians of the labels into bits too, by half of their peak. The paper may do so: it says that a student cannot
    fully imitate the heatmaps of "datasets and teachers"."""
    weight_by_peak: bool = False
    """Weight each joint of a teacher by the peak of its heatmap, which is about 1 where the teacher is sure."""
    use_unlabelled: bool = False
    """Also train on people without a labelled joint: the teachers alone teach them. The training set's table then holds them
    too, and so the teachers run on them."""
    labelled_fraction: Fraction = 1.0
    """Use the labels of this share of the people only; the others are taught by the teachers alone. The baseline trains on the
    labelled ones alone, for as many steps. To measure what labels are worth."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of labelled people in each batch of the student. None: that of the data."""
    hard: HardSettings = HardSettings()
    """Harder pixels for the student and the baseline."""
    validate_every: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Score student and baseline on the held-out people every so many epochs, and after the last one. 0: never."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result, of the student and of the baseline: those after the last epoch, or those with the best AP
    on the held-out people (``validate_every``)."""
    seed: Seed = 0
    baseline: bool = True
    """Also train the same student equally long without teachers, for comparison."""
    baseline_views: Literal["cached", "fresh"] = "cached"
    """The crops of the baseline: the student's ``views.count`` cached views, or a new view of each instance in each epoch,
    which costs a training without teachers nothing."""

    @model_validator(mode="after")
    def _student_starts_from_random_weights(self) -> Self:
        if self.student.weights is not None:
            raise ValueError(
                f"student.weights is '{self.student.weights}', a trained network: to start training from it, write it as init"
            )
        return self

    @model_validator(mode="after")
    def _best_is_known(self) -> Self:
        if self.keep == "best" and not self.validate_every:
            raise ValueError("keep: best needs validate_every above 0")
        return self

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Self:
        if self.labelled_fraction == 0 and self.baseline:
            raise ValueError("labelled_fraction is 0, which leaves nothing to learn for the baseline: set baseline to false")
        if self.labelled_fraction == 0 and (self.schedule == "none" or self.finish or self.teacher_weight == 0):
            raise ValueError(
                "labelled_fraction is 0, so the teachers must teach in each epoch: a schedule with teachers, finish 0, and a "
                "teacher_weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _both_teachers_have_an_epoch(self) -> Self:
        if self.schedule in ("primary_then_senior", "senior_then_primary") and 0 < self.switch < 1 and self.epochs < 2:
            raise ValueError(
                f"{self.schedule} needs at least 2 epochs, one for each teacher; for 1 epoch use 'primary' or 'senior'"
            )
        return self

    @model_validator(mode="after")
    def _phases_fill_the_epochs(self) -> Self:
        if isinstance(self.schedule, tuple):
            total = sum(phase.epochs for phase in self.schedule)
            if total != self.epochs:
                raise ValueError(f"the phases have {total} epochs in total, but distill.epochs is {self.epochs}")
        return self
