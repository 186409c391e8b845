"""Teachers of any architecture that come as a torch.export program (``.pt2``), read without running code that the file brings.

``torch.export.load`` of PyTorch 2.13 is not safe by itself: it unpickles legacy weights, custom objects and, where the
restricted reader fails, sample inputs with ``weights_only=False``; it loads compiled libraries; it evaluates the program's
size expressions; and ``module()`` executes the guards that the file states. So the archive is written anew here, in memory:
plain tensors, and a graph of ATen operators whose every text is harmless; no pickles, no libraries, no guards. What is left
is a program of tensor arithmetic, which can still be slow or large: take teachers from where you would take code.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from storage_schemas.errors import WeightsError

__all__ = ["ExportedNetwork", "load_exported"]

_ALLOWED = "a program that torch.export.save wrote: one graph of ATen operators, with plain tensors as its weights"
_MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/[\w-]+\.json|data/sample_inputs/[\w-]+\.pt"
    r"|data/weights/(weight_\d+|[\w-]+_weights_config\.json)|data/constants/(tensor_\d+|[\w-]+_constants_config\.json))"
)
_HARMLESS = re.compile(r"[\w.:#,>+\- ]*")
_OPERATORS = ("torch.ops.aten.", "torch.ops.prims.", "torch.ops.higher_order.", "torch.sym_", "_operator.", "math.")
_FILE_OPERATORS = ("torch.ops.aten.from_file",)
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"((Add|CleanDiv|FloorDiv|Integer|Max|Min|Mod|Mul|Pow|PythonMod|Rational|[su]\d+)\b|[\d\s+\-*/(),])*")


class ExportedNetwork(nn.Module):
    """An exported program as a trainable network: image [B, 3, h, w] to heatmaps [B, K, H, W].

    Its batch norms and dropouts stay as they were exported: ``train()`` and ``eval()`` do not reach into the program, which has
    no modes.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = cast(nn.Module, program.module(check_guards=False))
        self.input_shape = _input_shape(program)
        """Sizes of the one input; None where any size is taken."""

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Remember the mode and leave the program alone, which would raise."""
        self.training = mode
        return self

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """What the program returns for normalised images."""
        return cast(Tensor, self.program(image_B3hw))


def load_exported(path: Path) -> ExportedNetwork:
    """The network of a ``.pt2`` file; ``WeightsError`` for one that is broken or brings more than a graph and tensors."""
    try:
        program = torch.export.load(_clean_archive(path))
        return ExportedNetwork(program)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"'{path}' cannot be read as a torch.export program: {reason}", allowed=_ALLOWED) from error


def _input_shape(program: torch.export.ExportedProgram) -> tuple[int | None, ...]:
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise WeightsError(f"the exported program takes {len(names)} inputs", allowed="one: the image")
    [value] = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == names[0]]
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _clean_archive(path: Path) -> io.BytesIO:
    """The archive at ``path`` written anew with what may stay of it; refuses what must not be there."""
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as new:
        names = [info.filename for info in old.infolist()]
        if len({name.lower() for name in names}) < len(names):
            raise WeightsError(f"'{path}' holds a member twice", allowed=_ALLOWED)
        for info in old.infolist():
            if not _MEMBERS.fullmatch(info.filename) or info.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(
                    f"'{path}' holds '{info.filename}', which may run code; nothing of it was run", allowed=_ALLOWED
                )
            new.writestr(info.filename, _clean_member(info.filename, old.read(info), path=path))
    clean.seek(0)
    return clean


def _clean_member(name: str, data: bytes, *, path: Path) -> bytes:
    if "/data/sample_inputs/" in name:
        return b""  # a pickle that nothing here needs
    if "/models/" in name:
        program = cast(dict[str, object], _without_metadata(json.loads(data)))
        program["guards_code"] = []
        _check_texts(program, key="", path=path)
        return json.dumps(program).encode()
    if name.endswith("_config.json") and any(entry["use_pickle"] for entry in json.loads(data)["config"].values()):
        raise WeightsError(f"'{path}' holds pickled tensors in '{name}'; nothing of it was run", allowed=_ALLOWED)
    return data


def _without_metadata(value: object) -> object:
    """``value`` without the nodes' notes about source lines, which nothing needs and which end up in generated code."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else _without_metadata(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_metadata(inner) for inner in value]
    return value


def _check_texts(value: object, *, key: str, path: Path) -> None:
    """Refuse texts that could be code: they become names in generated source, operators, or evaluated expressions."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            _check_texts(inner_key, key="", path=path)
            _check_texts(inner, key=inner_key, path=path)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, key=key, path=path)
    elif isinstance(value, str) and not _is_harmless(value, key=key, path=path):
        raise WeightsError(
            f"'{path}' holds {value!r:.80} as '{key}', which may run code; nothing of it was run", allowed=_ALLOWED
        )


def _is_harmless(text: str, *, key: str, path: Path) -> bool:
    if key in ("in_spec", "out_spec"):
        _check_texts(json.loads(text) if text else "", key="spec", path=path)
        return True
    if key == "expr_str":
        return _EXPRESSION.fullmatch(_SYMBOL.sub("s0", text)) is not None
    if key == "target":
        operator = text.startswith(_OPERATORS) and not text.startswith(_FILE_OPERATORS)
        return operator and _HARMLESS.fullmatch(text) is not None
    # A dict's keys in a tree are JSON in JSON.
    return _HARMLESS.fullmatch(text) is not None or (key == "context" and text == "[]")
