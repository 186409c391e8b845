"""Weights files with seeded faults, and a process that loads many: ``python -m tests.support.weights_fuzz FOLDER 0 9 zip``."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from stages.networks.load import load_network
from stages.networks.spec import NetworkSpec
from stages.networks.weights import fit_weights, load_state_dict_file
from storage_schemas.errors import WeightsError
from storage_schemas.paths.local import LocalPath
from tests.support.memory import peak_mb
from tests.support.onnx_samples import convolution

__all__ = ["KINDS", "Outcome", "load_mutated"]

SIZE_WH = (32, 64)
Generator = np.random.Generator


def _network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 17, 3, 2, 1))
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network.eval()


def _saved(*, zipped: bool) -> bytes:
    stream = io.BytesIO()
    content = {"state_dict": _network().state_dict(), "epoch": 3, "loss": [0.5, 0.25]}
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _program() -> bytes:
    stream, shapes = io.BytesIO(), ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(
        torch.export.export(_network(), (torch.zeros(2, 3, SIZE_WH[1], SIZE_WH[0]),), dynamic_shapes=shapes), stream
    )
    return stream.getvalue()


KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zip": (".pth", lambda: _saved(zipped=True)),
    "legacy": (".pth", lambda: _saved(zipped=False)),
    "safetensors": (".safetensors", lambda: save_safetensors(_network().state_dict())),
    "program": (".pt2", _program),
    "onnx": (".onnx", lambda: convolution(*SIZE_WH)[0]),
}
"""The ending of each kind of file, and a good file."""


def _flip(data: bytearray, generator: Generator) -> None:
    for position in generator.integers(len(data), size=generator.integers(1, 4)):
        data[position] ^= 1 << int(generator.integers(8))


def _overwrite(data: bytearray, generator: Generator) -> None:
    value = [b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(8), b"\xff" * 8, generator.bytes(6)][generator.integers(5)]
    start = int(generator.integers(len(data)))
    data[start : start + len(value)] = value


def _cut(data: bytearray, generator: Generator) -> None:
    del data[int(generator.integers(len(data))) :]


def _remove(data: bytearray, generator: Generator) -> None:
    start = int(generator.integers(len(data)))
    del data[start : start + int(generator.integers(1, 64))]


def _repeat(data: bytearray, generator: Generator) -> None:
    start, target = (int(each) for each in generator.integers(len(data), size=2))
    data[target:target] = data[start : start + int(generator.integers(1, 200))]


def _enlarge(data: bytearray, generator: Generator) -> None:
    """Replace a digit by a number of up to twelve digits: sizes and offsets are text in some formats."""
    digits = [position for position, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        position = digits[int(generator.integers(len(digits)))]
        data[position : position + 1] = str(int(generator.integers(10 ** int(generator.integers(1, 13))))).encode()


_FAULTS = (*[_flip] * 3, *[_overwrite] * 2, *[_enlarge] * 2, _cut, _remove, _repeat)


def _with_faults(data: bytes, generator: Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(generator.choice([1, 1, 1, 2, 4]))):
        if changed:
            _FAULTS[int(generator.integers(len(_FAULTS)))](changed, generator)
    return bytes(changed)


def mutated(data: bytes, generator: Generator) -> bytes:
    """The file with faults; in archives mostly within a member, where no checksum catches them."""
    if not data.startswith(b"PK") or generator.random() < 0.25:
        return _with_faults(data, generator)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        members = old.infolist()
        texts = [info for info in members if info.filename.endswith((".pkl", ".json"))]
        chosen = (texts if generator.random() < 0.8 else members)[int(generator.integers(len(texts)))]
        for info in members:
            content = old.read(info)
            new.writestr(info.filename, _with_faults(content, generator) if info is chosen else content)
    return stream.getvalue()


def _load(path: LocalPath) -> None:
    if path.suffix in (".pt2", ".onnx"):
        load_network(NetworkSpec(weights=path), size_wh=SIZE_WH, num_keypoints=17)
    else:
        fit_weights(_network(), load_state_dict_file(path), source=str(path))


@dataclass
class Outcome:
    """What came of a number of files."""

    counts: dict[str, int] = field(default_factory=lambda: {"loaded": 0, "refused": 0})
    """Files that were loaded and files that were refused."""
    faults: list[str] = field(default_factory=list)
    """Other exceptions, with the kind and the number of the file."""
    slowest: float = 0.0
    """The most seconds that this process and its children computed for one file; other programs do not count."""
    slowest_file: str = ""
    megabytes: float = 0.0
    """The memory that the process had at most, in addition to what it had before the first file."""


def load_mutated(folder: LocalPath, kinds: Sequence[str], numbers: Sequence[int]) -> Outcome:
    """Load one file of each kind for each number, which is its seed."""
    outcome, before = Outcome(), _peak_mb()
    for kind, number, path in _files(folder, kinds, numbers):
        start = _computed()
        try:
            _load(path)
            outcome.counts["loaded"] += 1
        except WeightsError as error:
            outcome.counts["refused"] += 1
            if str(path) not in error.seen:
                outcome.faults.append(f"{kind} {number}: the message does not name the file: {error}")
        except Exception:
            outcome.faults.append(f"{kind} {number}: {traceback.format_exc()}")
        taken = _computed() - start
        if taken > outcome.slowest:
            outcome.slowest, outcome.slowest_file = taken, f"{kind} {number}"
        path.unlink()
    outcome.megabytes = _peak_mb() - before
    return outcome


def _files(folder: LocalPath, kinds: Sequence[str], numbers: Sequence[int]) -> Iterator[tuple[str, int, LocalPath]]:
    for kind in kinds:
        suffix, make = KINDS[kind]
        good = make()
        for number in numbers:
            path = folder / f"{kind}-{number}{suffix}"
            path.write_bytes(mutated(good, np.random.default_rng([number, *kind.encode()])))
            yield kind, number, path


def _computed() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak_mb() -> float:
    return max(peak_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


if __name__ == "__main__":
    where, first, last, *chosen = sys.argv[1:]
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(asdict(load_mutated(LocalPath(Path(where)), chosen, range(int(first), int(last))))))
