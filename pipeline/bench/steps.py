"""Part steps: a training step that reads the cache, and one that runs the teachers, each against one without teachers.

The step is the training loop's own. Batches are cut beforehand: loading is the same for all, and goes on beside the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.bench.entries import Cached, Data
from pipeline.bench.place import Place
from pipeline.bench.results import Ask, Part, Row
from pipeline.bench.scale import Scale
from pipeline.bench.timing import F64, Subject, interleaved, ratio
from stages.data.loader import Batch, CropLoader
from stages.data.mapped import MappedArray
from stages.learning.optimizer import make_optimizer
from stages.learning.plan import TrainingPlan, Weights
from stages.learning.step import Learner, Source
from stages.networks.normalize import normalize
from stages.networks.placement import on_device
from stages.networks.teacher import NetworkSpec, load_network
from stages.settings import AugmentSettings, Role, TrainSettings

__all__ = ["measure_steps"]

_ASK_CACHED = Ask("ratio", most=1.03)
_ASK_SUM = Ask("ratio", least=0.95, most=1.05)
_BATCHES = 4
_NONE, _ONE, _BOTH = Weights(1.0), Weights(0.5, primary=0.5), Weights(0.5, primary=0.25, senior=0.25)
_LABELS = Weights(0.5)


def measure_steps(data: Data, place: Place) -> list[Part]:
    """Milliseconds of each kind of step, and how many times one without teachers it takes."""
    scale, taught = data.scale, data.taught
    torch.set_num_threads(place.threads)
    learner = _learner(data, place)
    # For masks that are withheld: here are none, so nothing is drawn.
    drawn = np.random.default_rng(0)
    batches = _batches(data, taught)
    with ExitStack() as stack:
        teachers: dict[Role, MappedArray] = {
            role: stack.enter_context(closing(MappedArray(entry.folder, "bits"))) for role, entry in taught.targets.items()
        }

        def cached(weights: Weights) -> Subject:
            return lambda turn: learner.step(batches[turn % _BATCHES], weights, teachers, generator=drawn)

        kinds = {"none": cached(_NONE), "one": cached(_ONE), "both": cached(_BOTH)}
        from_cache = interleaved(kinds, rounds=scale.cached_rounds, title="steps from the cache", synchronize=place.synchronize)
        kinds = {"none": cached(_NONE), **_online(learner, batches, drawn, place, scale)}
        online = interleaved(
            kinds, rounds=scale.online_rounds, title="steps with teachers online", synchronize=place.synchronize
        )
    width, height = scale.crop_wh
    title = f"a step of {scale.student} at {height}x{width}, batch of {scale.train_batch}"
    ratio_to = "a step without teachers in the same round"
    return [
        Part(
            "steps",
            f"{title}, with teachers from the cache",
            ratio_to,
            _cached_rows(from_cache),
            (f"{scale.cached_rounds} rounds; {place}",),
            drawn="ratio",
        ),
        Part(
            "steps online",
            f"{title}, with the teachers in it",
            ratio_to,
            _online_rows(online, scale),
            (
                f"{scale.online_rounds} rounds; {place}",
                "in a step: a teacher's forward without gradients, its float maps as they are (nothing is binarized)",
                f"one a step, as in primary_then_senior: {' in half of the steps, then '.join(scale.teachers)}",
            ),
            drawn="ratio",
        ),
    ]


def _learner(data: Data, place: Place) -> Learner:
    scale = data.scale
    plan = TrainingPlan(
        title="bench",
        network=NetworkSpec(network=scale.student),
        instances=data.people.table,
        images=data.people.images,
        folder=data.folder,
        crop_wh=scale.crop_wh,
        size_divisor=1,
        epochs=(),
        train=TrainSettings(batch_size=scale.train_batch, lr=1e-4),
        precision=place.precision,
        device=place.device,
        seed=0,
        views_seed=0,
        augment=AugmentSettings(),
    )
    network = _network(plan.network, scale, place).train()
    return Learner(plan, network, make_optimizer(network, plan.train), torch.device(place.device))


def _network(spec: NetworkSpec, scale: Scale, place: Place) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return on_device(load_network(spec, size_wh=scale.crop_wh, generator=generator), torch.device(place.device))


def _batches(data: Data, taught: Cached) -> list[Batch]:
    """Random people's crops, whose rows in the table are those in the cache."""
    scale, rng = data.scale, np.random.default_rng(0)
    loader = CropLoader(taught.instances, data.people.images, size_wh=scale.crop_wh, threads=1)
    num = len(taught.instances.id_N)
    try:
        rows = [rng.choice(num, scale.train_batch, replace=False) for _ in range(_BATCHES)]
        return [batch for (batch,) in loader.batches(rows, [taught.views])]
    finally:
        loader.close()


def _online(
    learner: Learner, batches: Sequence[Batch], drawn: np.random.Generator, place: Place, scale: Scale
) -> dict[str, Subject]:
    """Steps with one teacher or both, and the teachers' forwards alone."""
    teachers = [_network(NetworkSpec(network=name), scale, place) for name in scale.teachers]
    # Normalised beforehand: the student's own image would serve them too.
    images = [normalize(torch.from_numpy(batch.image_Bhw3).to(place.device).permute(0, 3, 1, 2)) for batch in batches]

    def source(network: nn.Module, turn: int, weight: float) -> Source:
        heat_BKHW = place.forward(network, images[turn % _BATCHES])
        return weight, _seen(heat_BKHW), heat_BKHW

    def step(*networks: nn.Module) -> Subject:
        def run(turn: int) -> None:
            batch = batches[turn % _BATCHES]
            said = [source(network, turn, 0.5 / len(networks)) for network in networks]
            learner.learn(batch, [*learner.sources(batch, _LABELS, {}), *said], generator=drawn)

        return run

    def alone(network: nn.Module) -> Subject:
        return lambda turn: place.forward(network, images[turn % _BATCHES])

    first, second = teachers
    return {
        "first": step(first),
        "second": step(second),
        "both": step(first, second),
        "first alone": alone(first),
        "second alone": alone(second),
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
