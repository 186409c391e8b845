"""The numbers of the report: AP of every network and of the cached targets, the cost of each, and the differences."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stages import distill, evaluate, teachers
from stages.base import ROLES, Arm, Context, Step, StudentStep
from stages.inference import DECODERS
from stages.networks.load import load_network
from stages.networks.profile import measure_latency, profile
from stages.networks.spec import NetworkSpec
from stages.prepare.stage import skeleton_of
from stages.report.names import NAMES
from stages.report.page.content import AP_COLUMNS, Cost, DecoderRow, Difference, JointRow, Scored, TargetRow, Who
from stages.scoring.bootstrap import paired_bootstrap
from stages.scoring.network_scores import is_on_ground_truth, read_ground_truth
from stages.scoring.protocol import GROUND_TRUTH_BOXES
from stages.settings import DecoderName, Role
from stages.targets.stage import target_step
from storage_schemas.store.store import Entry

__all__ = [
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

_PAIRS = (
    ("baseline", "student"),
    ("primary", "senior"),
    ("senior without mask", "senior"),
    ("control", "senior"),
)
"""The pairs of networks to compare."""
_HEADLINES = 2
"""The first pairs are the purpose of an experiment: the top of the page states them."""


@dataclass(frozen=True)
class Compared:
    """A network on the validation set: its scores and predictions, and how to load it."""

    key: str
    """A key of ``NAMES``."""
    entry: Entry
    network: Step
    spec: NetworkSpec
    input_wh: tuple[int, int]
    label: str = ""
    """Text after the name, if the boxes differ from those of the protocol."""

    @property
    def name(self) -> str:
        """Its name in a table."""
        return NAMES[self.key].row + self.label

    @property
    def by_instance(self) -> bool:
        """Whether each annotated instance has a prediction of its own; predictions on detected boxes belong to an image."""
        return is_on_ground_truth(self.entry)

    @property
    def who(self) -> Who:
        """Its colour."""
        return NAMES[self.key].who


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
            found.append(Compared(arm, context.need(step), step.network, spec, input_wh, _crops_label(context, arm)))
    return found


def _label(context: Context) -> str:
    """Teachers and cached targets always have annotated boxes; their rows say so if the students have detected ones."""
    return "" if context.settings.evaluate.boxes is None else f", {GROUND_TRUTH_BOXES}"


def _crops_label(context: Context, arm: Arm) -> str:
    """The baseline's row says on which crops it was trained."""
    if arm == "student":
        return ""
    return ", on new crops in each epoch" if distill.has_fresh_views(context, arm) else ", on the student's crops"


def table(context: Context, networks: Sequence[Compared], decoder: DecoderName) -> list[Scored]:
    """The rows of the AP table: the teachers, their cached targets, the students."""
    costs = _costs(context, networks)
    rows = []
    for item in networks:
        scores = {column: item.entry.measured[decoder][column] for column in AP_COLUMNS}
        rows.append(Scored(item.who, item.name, scores, decoder, headline=bool(NAMES[item.key].short), cost=costs[item.key]))
    cached = [
        Scored(
            NAMES[role].who,
            f"Cached targets of {NAMES[role].short}{_label(context)}",
            {column: entry.measured["scores_from_bits"][column] for column in AP_COLUMNS},
            "centroid, no flip",
        )
        for role in ROLES
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
    """AP of each teacher's bits on the validation set, and of its float heatmaps."""
    return [
        TargetRow(
            NAMES[role].who,
            f"{NAMES[role].short}{_label(context)}",
            measured["AP_from_bits"],
            measured["AP_float_quarter"],
            measured["AP_float_dark"],
        )
        for role in ROLES
        for measured in [_validation_targets(context, role).measured]
    ]


def differences(context: Context, networks: Sequence[Compared], decoder: DecoderName) -> list[Difference]:
    """A paired bootstrap over the validation images for each pair of networks that the experiment has."""
    by_key = {item.key: item for item in networks}
    truth = read_ground_truth(context, "val")
    results = {key: _results(item.entry, decoder) for key, item in by_key.items()}
    skeleton = skeleton_of(context, "val")
    found = []
    for index, (a, b) in enumerate(_PAIRS):
        if a in by_key and b in by_key:
            bootstrap = paired_bootstrap(truth, results[a], results[b], skeleton=skeleton, seed=0)
            found.append(Difference(by_key[b].who, NAMES[a].sentence, NAMES[b].sentence, bootstrap, index < _HEADLINES))
    return found


def _results(entry: Entry, decoder: DecoderName) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(entry.path(f"results-{decoder}.json").read_bytes())
    return records


def joints(networks: Sequence[Compared], decoder: DecoderName) -> list[JointRow]:
    """For each joint, the share that each network with a short name finds."""
    tables = {NAMES[item.key].short: item.entry.measured[decoder]["joints"] for item in networks if NAMES[item.key].short}
    first = next(iter(tables.values()))
    return [
        JointRow(row["name"], row["labelled"], {name: joints[index]["share"] for name, joints in tables.items()})
        for index, row in enumerate(first)
    ]


def joint_series(networks: Sequence[Compared]) -> Mapping[str, Who]:
    """The names of the networks in ``joints`` with their colours."""
    return {NAMES[item.key].short: item.who for item in networks if NAMES[item.key].short}


def machine(context: Context) -> str:
    """The device that latency is measured on, as text."""
    if _device(context).type == "cuda":
        return torch.cuda.get_device_name()
    return f"one thread of the CPU that wrote this page ({platform.machine()})"


def _device(context: Context) -> torch.device:
    # The driver may run on a machine without GPUs although its workers have some.
    return torch.device("cuda" if context.device == "cuda" and torch.cuda.is_available() else "cpu")


def _costs(context: Context, networks: Sequence[Compared]) -> dict[str, Cost]:
    """Parameters, operations and time of each network; measured once for networks that differ only in their weights."""
    measured: dict[tuple[str | None, str, bool, tuple[int, int]], Cost] = {}
    found, num_keypoints = {}, teachers.num_keypoints(context)
    for item in networks:
        program = item.entry.key if item.spec.network is None else ""
        shape = (item.spec.network, program, item.spec.senior, item.input_wh)
        if shape not in measured:
            measured[shape] = _cost(item.spec, item.input_wh, num_keypoints, _device(context))
        found[item.key] = measured[shape]
    return found


def _cost(spec: NetworkSpec, input_wh: tuple[int, int], num_keypoints: int, device: torch.device) -> Cost:
    threads = torch.get_num_threads()
    # One thread: with several, the time depends on what else the machine is doing.
    torch.set_num_threads(1)
    try:
        network = load_network(spec, size_wh=input_wh, num_keypoints=num_keypoints, onnx_threads=1).to(device)
        counted = profile(network, size_wh=input_wh)
        return Cost(counted.params, counted.macs, measure_latency(network, size_wh=input_wh), input_wh)
    finally:
        torch.set_num_threads(threads)
