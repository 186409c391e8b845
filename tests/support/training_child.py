"""A worker of a training in a process of its own, to be killed: ``python training_child.py FOLDER RANK WORLD PORT DIE_AFTER``.

It learns the plan that lies in FOLDER as a pickle, saves after every third step, and kills itself after DIE_AFTER steps (0:
never). Who was in each of its steps, and the loss, goes to ``FOLDER/steps-RANK.jsonl``.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
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


def main(folder: Path, rank: int, world: int, port: int, die_after: int) -> None:
    """Train, or die on the way."""
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    loop._CHECKPOINT_SECONDS, loop._LOOK_STEPS = 0.0, 3
    learn, done = Trainer.step, [0]

    def step(
        self: Trainer, batch: Batch, weights: Weights, bits: Mapping[Role, MappedArray], *, generator: np.random.Generator
    ) -> Tensor:
        loss = learn(self, batch, weights, bits, generator=generator)
        with (folder / f"steps-{rank}.jsonl").open("a") as stream:
            stream.write(json.dumps({"rows": batch.rows_B.tolist(), "loss": float(loss)}) + "\n")
        done[0] += 1
        if done[0] == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    Trainer.step = step  # type: ignore[method-assign]
    train(plan, _worker(rank, world, port))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
