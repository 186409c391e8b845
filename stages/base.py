"""The steps of a run, one type for each kind of entry, and the context that every stage gets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

from stages.findings import Finding
from stages.pose.affine import heatmap_size
from stages.settings import BinarizeSettings, Precision, Role, Settings, Split
from storage_schemas.errors import MissingInputError, Remedy
from storage_schemas.paths.path import StorePath
from storage_schemas.store.recipe import Recipe, key_of
from storage_schemas.store.store import Entry, Store

__all__ = [
    "ROLES",
    "Arm",
    "Context",
    "Device",
    "InstancesStep",
    "ScoresStep",
    "Stage",
    "StageName",
    "Step",
    "StudentStep",
    "Subset",
    "TargetsStep",
    "TeacherPart",
    "TeacherStep",
    "ViewStep",
    "is_pending",
    "pending",
    "resolve_precision",
]

log = logging.getLogger(__name__)

StageName = Literal["prepare", "teachers", "targets", "distill", "evaluate", "report"]
Device = Literal["cpu", "cuda"]
TeacherPart = Literal["primary", "base", "senior", "control"]
"""The networks of stage teachers: both teachers, the network that the senior starts from, and the senior's control."""
Arm = Literal["student", "baseline"]
"""The student trains on teachers and labels; the baseline is the same network, trained equally long on labels alone."""
Subset = Literal["val", "holdout"]
"""The instances that a network is scored on; ``holdout`` are the training instances that no network trains on."""

ROLES: tuple[Role, Role] = ("primary", "senior")

_PENDING = "pending "


@dataclass(frozen=True)
class Step:
    """One entry that a stage makes, with its recipe.

    A recipe may need the content of an entry that does not exist yet. Then the step names that entry's step in ``waits_for``,
    and its key is not final.
    """

    stage: StageName
    kind: str
    title: str
    recipe: Recipe
    waits_for: tuple[Step, ...] = ()
    same: tuple[str, ...] = ()
    """Fields of the recipe that identify the step: an entry that differs in one of them is not an earlier version of it."""

    @cached_property
    def key(self) -> str:
        """The entry's key; it changes as long as the step waits for another."""
        return key_of(self.kind, self.recipe)

    @property
    def entry_id(self) -> str:
        """``kind/key``: the entry's folder in the store."""
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True, kw_only=True)
class InstancesStep(Step):
    """The instance table of a split."""

    stage: StageName = "prepare"
    kind: str = "instances"
    same: tuple[str, ...] = ("split",)
    split: Split


@dataclass(frozen=True, kw_only=True)
class TeacherStep(Step):
    """The weights of a teacher, or of a network that a teacher is made from or compared with."""

    stage: StageName = "teachers"
    kind: str = "teachers"
    part: TeacherPart


@dataclass(frozen=True, kw_only=True)
class ViewStep(Step):
    """The crops of all instances of a split in one view."""

    stage: StageName = "targets"
    kind: str = "views"
    same: tuple[str, ...] = ("view",)
    split: Split
    view: int


@dataclass(frozen=True, kw_only=True)
class TargetsStep(Step):
    """The bits of one teacher for one view, by one binarization rule."""

    stage: StageName = "targets"
    kind: str = "targets"
    same: tuple[str, ...] = ("view", "mask")
    split: Split
    view: int
    role: Role
    rule: BinarizeSettings


@dataclass(frozen=True, kw_only=True)
class StudentStep(Step):
    """The weights of the student or of its baseline."""

    stage: StageName = "distill"
    kind: str = "students"
    arm: Arm


@dataclass(frozen=True, kw_only=True)
class ScoresStep(Step):
    """The AP of one network on one subset."""

    kind: str = "evaluations"
    same: tuple[str, ...] = ("network", "subset", "mask")
    who: str
    """The network's name in titles."""
    network: Step
    subset: Subset
    boxes: Path | None
    """A detections file; None for the annotated boxes."""
    divisor: int
    withhold_mask: bool


def pending(name: str) -> str:
    """The placeholder in a recipe for a value that is known only when an entry exists."""
    return f"{_PENDING}{name}"


def is_pending(value: object) -> bool:
    """Whether a recipe's value is a placeholder by ``pending``."""
    return isinstance(value, str) and value.startswith(_PENDING)


@dataclass(frozen=True)
class Context:
    """One run of the pipeline: its settings, its home, and what it has done so far."""

    settings: Settings
    home: StorePath
    device: Device
    command: str = "python -m pipeline.run"
    """How the user started this run, without ``--stage``; the report prints it."""
    counters: Counter[str] = field(default_factory=Counter)
    """What this run has done, such as ``teacher_forwards.primary``."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The seconds that each stage of this run took."""
    run: str = field(default_factory=lambda: uuid4().hex[:8])
    """A random name for this run, unique among the runs of an experiment."""
    upstream: StorePath | None = None
    """Another home, such as a team's: its store is searched after the own one, and only read."""
    sources: dict[Split, Mapping[str, Any]] = field(default_factory=dict)
    """The recipe of each split's files, computed once: all steps contain it."""
    blind_nodes: dict[str, StorePath] = field(default_factory=dict)
    """The nodes of the cluster that do not see a folder of this run, by Ray's id: no stage gives them work."""
    _found: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _warned: set[Finding] = field(default_factory=set)

    @cached_property
    def store(self) -> Store:
        """The store of this home."""
        upstream = None if self.upstream is None else Store(self.upstream / "store")
        return Store(self.home / "store", upstream=upstream)

    @property
    def run_dir(self) -> StorePath:
        """The folder of this experiment: configuration, metrics and report."""
        return self.home / "runs" / self.settings.name

    @property
    def heatmap_wh(self) -> tuple[int, int]:
        """Size (W, H) of the teachers' heatmaps."""
        return heatmap_size(self.settings.crop.size_wh)

    def find(self, step: Step) -> Entry | None:
        """The entry of a step, or None if it does not exist or the step waits for another."""
        if step.waits_for:
            return None
        known = self._found.get((step.kind, step.key))
        if known is None:
            known = self.store.find(step.kind, step.recipe)
            if known is not None:
                self._found[step.kind, step.key] = known
        return known

    def replace(self, step: Step) -> None:
        """Have a step's entry rebuilt; the old one is deleted when the new one is committed."""
        entry = self.find(step)
        if entry is not None:
            self.store.replace(entry)
            del self._found[step.kind, step.key]

    def look_again(self) -> None:
        """Forget all found entries: some may have been deleted from the store since."""
        self._found.clear()
        self.sources.clear()

    def need(self, step: Step) -> Entry:
        """The entry of a step.

        Raises:
            MissingInputError: it does not exist; the message names the command that makes it.
        """
        entry = self.find(step)
        if entry is None:
            raise MissingInputError(
                f"Stage '{step.stage}' has not made the {step.title} yet",
                allowed="that stage first, or all stages",
                remedy=Remedy("run", stage=step.stage),
            )
        return entry

    def check(self, entry: Entry) -> None:
        """Verify the files of an entry against its manifest.

        Raises:
            CorruptEntryError: names the first damaged file, with its remedy.
        """
        entry.check(upstream=self.upstream)

    def content(self, step: Step) -> str:
        """The content hash of a step's entry, which other recipes contain.

        For a missing entry it is a placeholder, and the step whose recipe contains it must name ``step`` in ``waits_for``.
        """
        entry = self.find(step)
        return pending(step.key) if entry is None else entry.content

    def waits(self, *steps: Step) -> tuple[Step, ...]:
        """The steps whose entries are missing."""
        return tuple(step for step in steps if self.find(step) is None)

    def notify(self, message: str) -> None:
        """Log a message for the user."""
        log.info("%s", message)

    def warn(self, findings: Iterable[Finding]) -> None:
        """Log each finding as a warning, once in a run."""
        for finding in findings:
            if finding not in self._warned:
                self._warned.add(finding)
                log.warning("Warning: %s", finding.text)


class Stage(Protocol):
    """A stage of the pipeline, which is a module with these two functions."""

    def steps(self, context: Context) -> Sequence[Step]:
        """All entries that the stage makes, each as a step with its recipe."""

    def make(self, context: Context, missing: Sequence[Step]) -> None:
        """Make the entries of ``missing``, which are steps of this stage that wait for nothing."""


def resolve_precision(precision: Precision, device: Device) -> Literal["float32", "bfloat16"]:
    """Replace ``auto`` by bfloat16 where the device supports it (GPUs and some CPUs), else by float32; keys hold the result."""
    if precision != "auto":
        return precision
    return "bfloat16" if device == "cuda" or _native_bfloat16() else "float32"


def _native_bfloat16() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001 (there is no public way to ask)
