"""A training worker for a process of its own, which it kills after some steps."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # else each child imports it for its optimizer, which takes 3 s
from torch import Tensor

from stages.data.loader import Batch
from stages.settings import Role
from stages.training import loop
from stages.training.loop import Worker, train
from stages.training.memory_map import MappedArray
from stages.training.schedule import Weights
from stages.training.step import Trainer


def _worker(rank: int, world: int, port: int) -> Worker:
    if world == 1:
        return Worker()
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)

    def mean(value: Tensor) -> Tensor:
        torch.distributed.all_reduce(value)
        return value / world

    return Worker(
        rank=rank,
        world=world,
        local_rank=rank,
        wrap=torch.nn.parallel.DistributedDataParallel,
        barrier=torch.distributed.barrier,
        mean=mean,
    )


def train_child(folder: Path, rank: int, world: int, port: int, die_after: int) -> None:
    """Train the plan ``FOLDER/plan.pickle``, saving after every third step; SIGKILL this process after ``die_after`` steps.

    With ``die_after`` 0 it lives. The rows of each batch and the loss are written to ``FOLDER/steps-RANK.jsonl``.
    """
    torch.set_num_threads(1)
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    loop._CHECKPOINT_SECONDS, loop._LOOK_STEPS = 0.0, 3
    learn, done = Trainer.step, [0]

    def step(
        self: Trainer,
        batch: Batch,
        weights: Weights,
        bits: Mapping[Role, MappedArray],
        *,
        generator: np.random.Generator,
        **more: Any,  # noqa: ANN401 (passed on as it is)
    ) -> Tensor:
        loss = learn(self, batch, weights, bits, generator=generator, **more)
        with (folder / f"steps-{rank}.jsonl").open("a") as stream:
            stream.write(json.dumps({"rows": batch.rows_B.tolist(), "loss": float(loss)}) + "\n")
        done[0] += 1
        if done[0] == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    Trainer.step = step  # type: ignore[method-assign]
    train(plan, _worker(rank, world, port))
