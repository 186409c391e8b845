"""Part steps: training steps that read the cache or run the teachers, compared with a step without teachers.

The step is that of the training loop. Crops are cut before: loading is equal for all and runs beside the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bench.device import Machine
from pipeline.bench.entries import Data
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.scale import Scale
from pipeline.bench.timing import F64, Subject, interleaved, ratio
from stages.data.loader import Batch, CropLoader
from stages.data.windows import ImageSource
from stages.networks.device import on_device
from stages.networks.load import load_network
from stages.networks.normalize import normalize
from stages.networks.spec import NetworkSpec
from stages.pose.skeleton import COCO_17
from stages.settings import AugmentSettings, Role, TrainSettings
from stages.training.loss import LossTerm
from stages.training.memory_map import MappedArray
from stages.training.optimizer import make_optimizer
from stages.training.plan import TrainingPlan
from stages.training.schedule import Weights
from stages.training.step import Trainer

__all__ = ["measure_steps"]

_ASK_CACHED = Ask("ratio", most=1.03)
_ASK_SUM = Ask("ratio", least=0.95, most=1.05)
_NONE, _ONE, _BOTH = Weights(1.0), Weights(0.5, primary=0.5), Weights(0.5, primary=0.25, senior=0.25)
_LABELS = Weights(0.5)

Step = Callable[[], object]


def measure_steps(data: Data, machine: Machine) -> list[Part]:
    """Milliseconds of each kind of step, and the ratio to a step without teachers."""
    scale = data.scale
    torch.set_num_threads(machine.threads)
    trainer, batch = _trainer(data, machine), _batch(data)
    with ExitStack() as stack:
        teachers: dict[Role, MappedArray] = {
            role: stack.enter_context(closing(MappedArray(entry.fetch(), "bits")))
            for role, entry in data.cached.targets.items()
        }
        kinds = _from_cache(trainer, batch, teachers, scale.rows)
        from_cache = _seconds(kinds, machine, scale, rounds=scale.cached_rounds, title="steps from the cache")
    kinds = _online(trainer, batch, machine, scale)
    online = _seconds(kinds, machine, scale, rounds=scale.online_rounds, title="steps with teachers online")
    width, height = scale.crop_wh
    title = f"a step of {scale.student} at {height}x{width}, batch of {scale.train_batch}"
    ratio_to, groups = "a step without teachers in the same round", f"rounds of {scale.group_steps} steps on end; {machine}"
    return [
        Part(
            "steps",
            f"{title}, with teachers from the cache",
            ratio_to,
            _cached_rows(from_cache),
            (
                f"{scale.cached_rounds} {groups}",
                f"each step reads the bits of other instances, drawn out of {scale.rows:,}; its crops are always the same",
            ),
            drawn="ratio",
        ),
        Part(
            "steps online",
            f"{title}, with the teachers in it",
            ratio_to,
            _online_rows(online, scale),
            (
                f"{scale.online_rounds} {groups}",
                "in a step: a teacher's forward without gradients, its float maps as they are (nothing is binarized)",
                f"one a step, as in primary_then_senior: {' in half of the steps, then '.join(scale.teachers)}",
            ),
            drawn="ratio",
        ),
    ]


def _trainer(data: Data, machine: Machine) -> Trainer:
    scale = data.scale
    plan = TrainingPlan(
        stage="bench",
        name="step",
        network=NetworkSpec(network=scale.student),
        instances=data.dataset.table,
        images=ImageSource(data.dataset.root),
        folder=data.folder,
        crop_wh=scale.crop_wh,
        size_divisor=1,
        epochs=(),
        train=TrainSettings(batch_size=scale.train_batch, lr=1e-4),
        precision=machine.precision,
        device=machine.device,
        seed=0,
        views_seed=0,
        augment=AugmentSettings(),
    )
    network = _network(plan.network, scale, machine).train()
    return Trainer(
        plan, network, make_optimizer(network, plan.train), torch.device(machine.device), np.ones(scale.rows, np.bool_)
    )


def _network(spec: NetworkSpec, scale: Scale, machine: Machine) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = load_network(spec, size_wh=scale.crop_wh, num_keypoints=COCO_17.num_keypoints, generator=generator)
    return on_device(network, torch.device(machine.device))


def _batch(data: Data) -> Batch:
    """Crops of random instances."""
    scale, cached = data.scale, data.cached
    rows_B = np.random.default_rng(0).choice(scale.rows, scale.train_batch, replace=False)
    loader = CropLoader(cached.instances, ImageSource(data.dataset.root), size_wh=scale.crop_wh, threads=1)
    try:
        [[batch]] = loader.batches([rows_B], [cached.views])
    finally:
        loader.close()
    return batch


def _seconds(kinds: Mapping[str, Step], machine: Machine, scale: Scale, *, rounds: int, title: str) -> dict[str, F64]:
    """Seconds of one step of each kind, by round.

    Steps are timed in groups: as in training, a GPU gets the next step before it has finished the last one.
    """
    groups = {name: _group(step, scale.group_steps) for name, step in kinds.items()}
    seconds = interleaved(groups, rounds=rounds, title=title, synchronize=machine.synchronize)
    return {name: found / scale.group_steps for name, found in seconds.items()}


def _group(step: Step, steps: int) -> Subject:
    def run(_: int) -> None:
        for _ in range(steps):
            step()

    return run


def _from_cache(trainer: Trainer, batch: Batch, teachers: Mapping[Role, MappedArray], num: int) -> dict[str, Step]:
    """Steps without teachers, with one and with both; the cache has ``num`` instances."""
    generator = np.random.default_rng(0)

    def step(weights: Weights) -> Step:
        def run() -> None:
            # Other rows in each step: those of the last step would still be in the processor's caches.
            rows_B = generator.integers(0, num, len(batch.rows_B))
            trainer.step(replace(batch, rows_B=rows_B), weights, teachers, generator=generator)

        return run

    return {"none": step(_NONE), "one": step(_ONE), "both": step(_BOTH)}


def _online(trainer: Trainer, batch: Batch, machine: Machine, scale: Scale) -> dict[str, Step]:
    """Steps without teachers, with one or both, and the forward passes of the teachers alone."""
    generator = np.random.default_rng(0)
    first, second = (_network(NetworkSpec(network=name), scale, machine) for name in scale.teachers)
    # Normalised before: teachers could use the normalised images of the student.
    image_B3hw = normalize(torch.from_numpy(batch.image_Bhw3).to(machine.device).permute(0, 3, 1, 2))

    def term(network: nn.Module, weight: float) -> LossTerm:
        heat_BKHW = machine.forward(network, image_B3hw)
        return LossTerm(weight, _seen(heat_BKHW), heat_BKHW)

    def step(*networks: nn.Module) -> Step:
        def run() -> None:
            teachers = [term(network, 0.5 / len(networks)) for network in networks]
            trainer.update(batch, [*trainer.loss_terms(batch, _LABELS, {}), *teachers], generator=generator)

        return run

    return {
        "none": lambda: trainer.step(batch, _NONE, {}, generator=generator),
        "first": step(first),
        "second": step(second),
        "both": step(first, second),
        "first alone": lambda: machine.forward(first, image_B3hw),
        "second alone": lambda: machine.forward(second, image_B3hw),
    }


def _seen(heat_BKHW: Tensor) -> Tensor:
    return torch.ones(heat_BKHW.shape[:2], device=heat_BKHW.device)


def _cached_rows(seconds: dict[str, F64]) -> tuple[Row, ...]:
    none = seconds["none"]
    return (
        _row("no teachers", none),
        _row("one teacher from the cache", seconds["one"], none, _ASK_CACHED),
        _row("both teachers from the cache", seconds["both"], none, _ASK_CACHED),
    )


def _online_rows(seconds: dict[str, F64], scale: Scale) -> tuple[Row, ...]:
    none, (first, second) = seconds["none"], scale.teachers
    one = (seconds["first"] + seconds["second"]) / 2
    one_parts = none + (seconds["first alone"] + seconds["second alone"]) / 2
    both_parts = none + seconds["first alone"] + seconds["second alone"]
    return (
        _row("no teachers", none),
        _row("one teacher a step", one, none),
        _row("- against the sum of its parts", one, one_parts, _ASK_SUM),
        _row("both teachers", seconds["both"], none),
        _row("- against the sum of its parts", seconds["both"], both_parts, _ASK_SUM),
        _row(f"forward of {first} alone", seconds["first alone"]),
        _row(f"forward of {second} alone", seconds["second alone"]),
    )


def _row(name: str, seconds: F64, reference: F64 | None = None, ask: Ask | None = None) -> Row:
    return Row(name, float(np.median(seconds)) * 1e3, "ms", None if reference is None else ratio(seconds, reference), ask)
