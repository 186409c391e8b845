"""Given teachers on a real Ray: a good one has no finding, and each fault of the others is found."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.load import load_settings, resolved_yaml
from stages import teachers
from stages.base import Context
from stages.findings import Finding, findings_in
from stages.prepare import stage as prepare
from stages.settings import DataSettings, PrepareSettings, Settings, SplitSource, TeacherSource, TeachersSettings
from stages.targets import stage as targets
from stages.teachers import evaluations, teacher_step
from storage_schemas.errors import TrainingError
from storage_schemas.paths.local import LocalPath
from storage_schemas.store.store import Draft
from tests.support.buckets import local
from tests.support.dot_teacher import DotTeacher, export_teacher, write_people
from tests.support.errors import suggested

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]
_SIZE_WH = (96, 96)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, warm: None) -> LocalPath:
    """A home with the instance tables, and the images beside it."""
    root = LocalPath(tmp_path_factory.mktemp("dots"))
    for split, images, first in (("train", 3, 100), ("val", 8, 200)):
        write_people(root / split, images=images, first=first, seed=first)
    context = _context(root, root / "home", export_teacher(root / "none.pt2", DotTeacher(), size_wh=_SIZE_WH))
    prepare.make(context, prepare.steps(context))
    return root


def _context(root: LocalPath, home: LocalPath, weights: LocalPath, *overrides: str) -> Context:
    """A run with given weights as its primary; ``overrides`` are settings as a user types them."""
    data = {
        split: SplitSource(annotations=root / split / "annotations.json", images=root / split / "images")
        for split in ("train", "val")
    }
    settings = Settings.model_validate(
        {
            "name": "dots",
            "data": DataSettings(**data).model_dump(),
            "crop": {"size_wh": _SIZE_WH},
            "prepare": PrepareSettings(holdout_fraction=0.0).model_dump(),
            "teachers": TeachersSettings(primary=TeacherSource(weights=weights)).model_dump(),
            "distill": {"student": {"network": "hrnet_w8_tiny"}, "schedule": "primary", "epochs": 1},
            "targets": {"precision": "float32"},
            # A colour does not change sides in a mirrored image.
            "evaluate": {"flip": False},
        }
    )
    (root / "dots.yaml").write_text(resolved_yaml(settings))
    return Context(load_settings(str(root / "dots.yaml"), overrides), home, "cpu")


def _scored(context: Context) -> list[Finding]:
    """Take the weights as the primary, and score it."""
    step = teacher_step(context, "primary")
    teachers.make(context, [step])
    scores = evaluations(context)["primary"]
    teachers.make(context, [scores])
    return findings_in(context.need(scores).measured)


def _leave_senior(context: Context) -> None:
    """The primary's network stands for the senior, whose training these tests do not need."""
    primary = context.need(teacher_step(context, "primary"))
    step = teacher_step(context, "senior")
    with context.store.draft(step.kind, step.recipe) as draft:
        assert isinstance(draft, Draft)
        name = primary.measured["weights"]
        shutil.copyfile(primary.path(name), local(draft.folder) / name)
        draft.commit([name], measured=dict(primary.measured))


def _targets(context: Context) -> list[Finding]:
    """The warnings of the primary's targets of the validation set, which are filled."""
    ours = [step for step in targets.steps(context) if step.split == "val"]
    targets.make(context, [step for step in ours if context.find(step) is None])
    step = targets.target_step(context, "primary", "val", 0, context.settings.binarize)
    entry = context.need(step)
    assert entry.measured["AP_from_bits"] > 0.8
    return findings_in(entry.measured)


def test_a_good_teacher_has_no_finding_and_a_faint_one_is_refused_until_the_proposed_limit_is_set(prepared: LocalPath) -> None:
    home = prepared / "home"
    good = _context(prepared, home, export_teacher(prepared / "good.pt2", DotTeacher(), size_wh=_SIZE_WH))
    assert _scored(good) == []
    _leave_senior(good)
    assert _targets(good) == []
    weights = export_teacher(prepared / "faint.pt2", DotTeacher(peak=0.1), size_wh=_SIZE_WH)
    faint = _context(prepared, home, weights)
    assert _scored(faint) == []
    _leave_senior(faint)
    with pytest.raises(TrainingError, match="teach next to nothing") as caught:
        _targets(faint)
    [setting] = _proposed(caught.value)
    assert setting.startswith("binarize.min_peak=")
    assert _targets(_context(prepared, home, weights, setting)) == []


def _proposed(error: TrainingError) -> list[str]:
    """The settings of the proposed command."""
    command, *settings = suggested(error, "odkd").split(" --set ")
    assert command == "odkd --stage targets"
    return settings


class _Rounded(DotTeacher):
    """Its factor of about 1 divides by a difference that bfloat16 rounds to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1, 1, 1), 1.001))

    def forward(self, image_B3hw: Tensor) -> Tensor:
        near_one = nn.functional.conv2d(torch.ones_like(image_B3hw[:, :1]), self.scale)[:, :, :1, :1]
        return super().forward(image_B3hw) * 0.001 / (near_one - 1)


class _Blind(DotTeacher):
    """It never sees the nose, whose maps are 0 as a ReLU leaves them."""

    def forward(self, image_B3hw: Tensor) -> Tensor:
        return super().forward(image_B3hw) * (torch.arange(17) > 0).view(1, 17, 1, 1)


@pytest.mark.parametrize(
    ("network", "kind", "proposed"),
    [
        (_Rounded(), "136 are not finite", ["targets.precision=float32"]),
        (_Blind(), "8 are zero everywhere", ["targets.max_bad_fraction=0.059"]),
    ],
)
def test_bad_heatmaps_are_refused_by_their_kind_until_what_helps_is_set(
    network: DotTeacher, kind: str, proposed: list[str], prepared: LocalPath
) -> None:
    home = prepared / "home"
    weights = export_teacher(prepared / f"{type(network).__name__}.pt2", network, size_wh=_SIZE_WH)
    bad = _context(prepared, home, weights, "targets.precision=bfloat16")
    teachers.make(bad, [teacher_step(bad, "primary")])
    _leave_senior(bad)
    with pytest.raises(TrainingError, match=f"of 136 heatmaps in the targets .* cannot teach: {kind}") as caught:
        _targets(bad)
    assert _proposed(caught.value) == proposed
    assert _targets(_context(prepared, home, weights, "targets.precision=bfloat16", *proposed)) == []


@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        (DotTeacher(bgr=True), {"ap_near_zero", "swapped_colours"}),
        (DotTeacher(swapped=True), {"ap_near_zero", "teacher_swapped"}),
    ],
)
def test_exchanged_colours_and_sides_are_told_apart(network: DotTeacher, kinds: set[str], prepared: LocalPath) -> None:
    weights = export_teacher(prepared / "odd.pt2", network, size_wh=_SIZE_WH)
    found = _scored(_context(prepared, prepared / "home", weights))
    assert {finding.kind for finding in found} == kinds
