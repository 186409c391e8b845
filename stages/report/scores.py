"""The report's figures: AP of every network and of the cached targets, what each costs, and which differences count."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stages import evaluate, teachers
from stages.base import Context, Step, StudentStep
from stages.inference import DECODERS
from stages.networks.load import load_network
from stages.networks.profile import measure_latency, profile
from stages.networks.spec import NetworkSpec
from stages.prepare import skeleton_of
from stages.report.page.content import AP_COLUMNS, Cost, DecoderRow, Difference, JointRow, Scored, TargetRow, Who
from stages.scoring.bootstrap import paired_bootstrap
from stages.scoring.network_scores import is_on_ground_truth, read_ground_truth
from stages.scoring.protocol import GROUND_TRUTH_BOXES
from stages.settings import DecoderName, Role
from stages.targets.stage import target_step
from storage_schemas.store.store import Entry

__all__ = [
    "SHORT_NAMES",
    "Compared",
    "by_decoder",
    "compared",
    "differences",
    "joint_series",
    "joints",
    "machine",
    "table",
    "targets",
]

SHORT_NAMES: dict[Role, str] = {"primary": "PT", "senior": "ST"}
_WHO: dict[str, Who] = {"primary": "primary", "senior": "senior", "student": "student", "baseline": "baseline"}
_ROW_NAMES = {
    "primary": "Primary teacher (PT)",
    "senior": "Senior teacher (ST), with the mask",
    "senior without mask": "ST, mask withheld",
    "control": "Control: trained as ST, without masks",
    "student": "Student",
    "baseline": "Baseline: the student without teachers",
}
_SPOKEN_NAMES = {
    "primary": "primary teacher",
    "senior": "senior teacher",
    "senior without mask": "senior teacher without its mask",
    "control": "control trained without masks",
    "student": "student",
    "baseline": "baseline",
}
_PAIRS = (
    ("baseline", "student"),
    ("primary", "senior"),
    ("senior without mask", "senior"),
    ("control", "senior"),
)
"""Whose AP is compared with whose; the first two are what an experiment is about."""
_HEADLINES = 2


@dataclass(frozen=True)
class Compared:
    """A network on the validation set: its scores and predictions, and how to load it."""

    key: str
    """``primary``, ``senior``, ``senior without mask``, ``control``, ``student`` or ``baseline``."""
    entry: Entry
    network: Step
    spec: NetworkSpec
    input_wh: tuple[int, int]
    label: str = ""
    """What is said behind the name, of boxes other than the protocol's."""

    @property
    def name(self) -> str:
        """How a row of a table calls it."""
        return _ROW_NAMES[self.key] + self.label

    @property
    def by_instance(self) -> bool:
        """Whether each annotated instance has a prediction of its own; predictions on detected boxes belong to an image."""
        return is_on_ground_truth(self.entry)

    @property
    def who(self) -> Who:
        """Whose colour it has."""
        return _WHO.get(self.key, "other")


def compared(context: Context) -> list[Compared]:
    """Every network that was scored on the validation set, teachers first."""
    found = []
    width, height = context.settings.crop.size_wh
    for key, step in teachers.evaluations(context).items():
        spec = teachers.network_spec(context.need(step.network))
        found.append(Compared(key, context.need(step), step.network, spec, (width, height), _label(context)))
    for step in evaluate.steps(context):
        if step.subset == "val":
            assert isinstance(step.network, StudentStep)
            arm = step.network.arm
            spec = evaluate.student_spec(context, arm)
            input_wh = (width // step.divisor, height // step.divisor)
            found.append(Compared(arm, context.need(step), step.network, spec, input_wh))
    return found


def _label(context: Context) -> str:
    """What is said of teachers and cached targets where the table's boxes are a detector's; theirs are always annotated."""
    return "" if context.settings.evaluate.boxes is None else f", {GROUND_TRUTH_BOXES}"


def table(context: Context, networks: Sequence[Compared], decoder: DecoderName) -> list[Scored]:
    """The rows of the AP table: the teachers, what their cached bits say, the students."""
    costs = _costs(context, networks)
    rows = []
    for item in networks:
        scores = {column: item.entry.measured[decoder][column] for column in AP_COLUMNS}
        rows.append(Scored(item.who, item.name, scores, decoder, headline=item.key in _WHO, cost=costs[item.key]))
    cached = [
        Scored(
            _WHO[role],
            f"Cached targets of {short}{_label(context)}",
            {column: entry.measured["scores_from_bits"][column] for column in AP_COLUMNS},
            "centroid, no flip",
        )
        for role, short in SHORT_NAMES.items()
        for entry in [_validation_targets(context, role)]
    ]
    num_teachers = sum(item.key not in ("student", "baseline") for item in networks)
    return [*rows[:num_teachers], *cached, *rows[num_teachers:]]


def _validation_targets(context: Context, role: Role) -> Entry:
    return context.need(target_step(context, role, "val", 0, context.settings.binarize))


def by_decoder(networks: Sequence[Compared]) -> list[DecoderRow]:
    """The AP of each network by each decoder."""
    return [DecoderRow(item.who, item.name, {name: item.entry.measured[name]["AP"] for name in DECODERS}) for item in networks]


def targets(context: Context) -> list[TargetRow]:
    """What each teacher's bits on the validation set say, beside its float maps."""
    return [
        TargetRow(
            _WHO[role],
            f"{short}{_label(context)}",
            measured["AP_from_bits"],
            measured["AP_float_quarter"],
            measured["AP_float_dark"],
        )
        for role, short in SHORT_NAMES.items()
        for measured in [_validation_targets(context, role).measured]
    ]


def differences(context: Context, networks: Sequence[Compared], decoder: DecoderName) -> list[Difference]:
    """The pairs that are there, each with a paired bootstrap over the validation images."""
    by_key = {item.key: item for item in networks}
    truth = read_ground_truth(context, "val")
    results = {key: _results(item.entry, decoder) for key, item in by_key.items()}
    skeleton = skeleton_of(context, "val")
    found = []
    for index, (a, b) in enumerate(_PAIRS):
        if a in by_key and b in by_key:
            bootstrap = paired_bootstrap(truth, results[a], results[b], skeleton=skeleton, seed=0)
            found.append(Difference(by_key[b].who, _SPOKEN_NAMES[a], _SPOKEN_NAMES[b], bootstrap, index < _HEADLINES))
    return found


def _results(entry: Entry, decoder: DecoderName) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(entry.path(f"results-{decoder}.json").read_bytes())
    return records


def joints(networks: Sequence[Compared], decoder: DecoderName) -> list[JointRow]:
    """For each joint, the share that each of the main networks finds."""
    tables = {_SERIES[item.key]: item.entry.measured[decoder]["joints"] for item in networks if item.key in _SERIES}
    first = next(iter(tables.values()))
    return [
        JointRow(row["name"], row["labelled"], {name: joints[index]["share"] for name, joints in tables.items()})
        for index, row in enumerate(first)
    ]


def joint_series(networks: Sequence[Compared]) -> Mapping[str, Who]:
    """The names of the networks in ``joints`` with their colours."""
    return {_SERIES[item.key]: item.who for item in networks if item.key in _SERIES}


_SERIES = {"primary": "PT", "senior": "ST", "student": "student", "baseline": "baseline"}


def machine(context: Context) -> str:
    """Where latency is measured."""
    if _device(context).type == "cuda":
        return torch.cuda.get_device_name()
    return f"one thread of the CPU that wrote this page ({platform.machine()})"


def _device(context: Context) -> torch.device:
    # The driver may sit on a machine without the GPUs that its workers have.
    return torch.device("cuda" if context.device == "cuda" and torch.cuda.is_available() else "cpu")


def _costs(context: Context, networks: Sequence[Compared]) -> dict[str, Cost]:
    """Size, arithmetic and time of each network; measured once for those that differ in weights or input alone."""
    measured: dict[tuple[str | None, str, bool, tuple[int, int]], Cost] = {}
    found = {}
    for item in networks:
        program = item.entry.key if item.spec.network is None else ""
        shape = (item.spec.network, program, item.spec.senior, item.input_wh)
        if shape not in measured:
            measured[shape] = _cost(item.spec, item.input_wh, _device(context))
        found[item.key] = measured[shape]
    return found


def _cost(spec: NetworkSpec, input_wh: tuple[int, int], device: torch.device) -> Cost:
    threads = torch.get_num_threads()
    # One thread: several wait for each other, and tell more about what else the machine does than about the network.
    torch.set_num_threads(1)
    try:
        network = load_network(spec, size_wh=input_wh, onnx_threads=1).to(device)
        counted = profile(network, size_wh=input_wh)
        return Cost(counted.params, counted.macs, measure_latency(network, size_wh=input_wh), input_wh)
    finally:
        torch.set_num_threads(threads)
