"""Networks of any architecture as torch.export programs (``.pt2``), loaded without running code from the file.

``torch.export.load`` of PyTorch 2.13 can run code from a file. It unpickles legacy weights, custom objects and, if the
restricted reader fails, sample inputs with ``weights_only=False``. It loads compiled libraries and evaluates size expressions.
Trees of inputs and outputs import modules. Targets and arguments of nodes name anything in ``torch`` or ``operator``, and
``module()`` executes the guards in the file.

So this module copies the archive in memory and keeps only plain tensors and a graph of dispatcher operators. It refuses
operators that open files or call other operators, and every text that could be code; it drops pickles and guards. The result
is a program of tensor arithmetic. It can still be slow or large: use files only from sources that you trust.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from stages.networks.file_kind import check_archive, refuse_other_kind
from storage_schemas.errors import WeightsError

__all__ = ["ExportedNetwork", "load_exported"]

_ALLOWED = "a program that torch.export.save wrote: one graph of ATen operators, with plain tensors as its weights"
_MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/[\w-]+\.json|data/sample_inputs/[\w-]+\.pt"
    r"|data/weights/(weight_\d+|[\w-]+_weights_config\.json)|data/constants/(tensor_\d+|[\w-]+_constants_config\.json))"
)
_HARMLESS = re.compile(r"[\w.:#,>+\- ]*")
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)")
# No powers and no shifts to the left, whose results can be too long for the memory.
# Each allowed function is listed: with operator.call, operator.attrgetter or __globals__ a graph could call anything.
_SIZE_OPERATOR = re.compile(
    r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|truediv|and_|or_|rshift)"
    r"|math\.(trunc|ceil|floor)|torch\.sym_(not|int|float|ite|max|min)"
)
# The only dispatcher operator of PyTorch 2.13 that opens files; aten::save belongs to TorchScript.
_FILE_OPERATORS = ("from_file",)
_CONTAINERS = ("builtins.tuple", "builtins.list", None)
_NAMED_CONTAINERS = ("builtins.dict", "collections.OrderedDict")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"((Add|CleanDiv|FloorDiv|Integer|Max|Min|Mod|Mul|Pow|PythonMod|Rational|[su]\d+)\b|[\d\s+\-*/(),])*")
# A power of a power has more digits than the memory holds; the square of a size is all that networks need.
_POWERS = re.compile(r"\*\*|Pow.*Pow|Pow.*\d{3}")


class ExportedNetwork(nn.Module):
    """An exported program as a trainable network: image [B, 3, h, w] to heatmaps [B, K, H, W].

    Batch norms and dropouts stay in the mode in which they were exported: ``train()`` and ``eval()`` do not change the program.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = cast(nn.Module, program.module(check_guards=False))
        self.input_shape = _input_shape(program)
        """Sizes of the input; None where any size is accepted."""

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Set the flag only: the program itself raises on a change of mode."""
        self.training = mode
        return self

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """The program's output for normalised images; of a dict, list or tuple with one tensor, that tensor."""
        return cast(Tensor, _only(self.program(image_B3hw)))


def _only(output: object) -> object:
    """What a container of one holds; other outputs as they are."""
    while isinstance(output, Mapping | list | tuple) and len(output) == 1:
        [output] = output.values() if isinstance(output, Mapping) else output
    return output


def load_exported(path: Path) -> ExportedNetwork:
    """The network of a ``.pt2`` file.

    Raises:
        WeightsError: the file is broken, or holds more than a graph and tensors.
    """
    refuse_other_kind(path, wanted="pt2")
    logged: list[BaseException] = []
    try:
        check_archive(path, allowed=_ALLOWED)
        with _logged_errors() as logged:
            program = torch.export.load(_clean_archive(path))
        return ExportedNetwork(program)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        cause = logged[0] if logged else error
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise WeightsError(f"'{path}' cannot be read as a torch.export program: {reason}", allowed=_ALLOWED) from error


@contextmanager
def _logged_errors() -> Iterator[list[BaseException]]:
    """The errors that torch.export logs with a traceback, in place of its log: those that it raises say less."""
    found: list[BaseException] = []

    def take(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            found.append(record.exc_info[1])
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(take)
    try:
        yield found
    finally:
        logger.removeFilter(take)


def _input_shape(program: torch.export.ExportedProgram) -> tuple[int | None, ...]:
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise WeightsError(f"the exported program takes {len(names)} inputs", allowed="one: the image")
    [value] = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == names[0]]
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _clean_archive(path: Path) -> io.BytesIO:
    """A copy of the archive at ``path`` with its harmless members; other members are refused."""
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            if not _MEMBERS.fullmatch(info.filename):
                raise WeightsError(
                    f"'{path}' holds '{info.filename}', which may run code; no code of the file was run", allowed=_ALLOWED
                )
            new.writestr(info.filename, _clean_member(info.filename, old.read(info), path=path))
    clean.seek(0)
    return clean


def _clean_member(name: str, data: bytes, *, path: Path) -> bytes:
    if "/data/sample_inputs/" in name:
        return b""  # a pickle that loading does not need
    if "/models/" in name:
        program = cast(dict[str, object], _without_metadata(json.loads(data)))
        program["guards_code"] = []
        _check_texts(program, key="", path=path)
        return json.dumps(program).encode()
    if name.endswith("_config.json") and any(entry["use_pickle"] for entry in json.loads(data)["config"].values()):
        raise WeightsError(f"'{path}' holds pickled tensors in '{name}'; no code of the file was run", allowed=_ALLOWED)
    return data


def _without_metadata(value: object) -> object:
    """``value`` without the nodes' metadata: loading does not need it, and it would become part of generated code."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else _without_metadata(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_metadata(inner) for inner in value]
    return value


def _check_texts(value: object, *, key: str, path: Path) -> None:
    """Refuse texts that could be code: they become names in generated source, operators, or evaluated expressions."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            if inner_key == "as_operator":
                # An operator as an argument would be called; tensor arithmetic needs none.
                _refuse_text(inner, key=inner_key, path=path)
            _check_texts(inner_key, key="", path=path)
            _check_texts(inner, key=inner_key, path=path)
    elif isinstance(value, list):
        for inner in value:
            _check_texts(inner, key=key, path=path)
    elif isinstance(value, str) and not _is_harmless(value, key=key):
        _refuse_text(value, key=key, path=path)


def _refuse_text(value: object, *, key: str, path: Path) -> NoReturn:
    shown = repr(value)[:80]
    if key == "out_spec":
        kinds = re.findall(r'"type": "([\w.]+)"', str(value))
        raise WeightsError(
            f"The network in '{path}' returns {' of '.join(kinds[:3]) or shown}, which may run code; "
            "no code of the file was run",
            allowed="a network that returns a tensor, or a dict, list or tuple with one tensor: export it in such a wrapper",
        )
    raise WeightsError(f"'{path}' holds {shown} as '{key}', which may run code; no code of the file was run", allowed=_ALLOWED)


def _is_harmless(text: str, *, key: str) -> bool:
    if key in ("in_spec", "out_spec"):
        return not text or _is_plain_tree(json.loads(text)[1])
    if key == "expr_str":
        return _EXPRESSION.fullmatch(_SYMBOL.sub("s0", text)) is not None and not _POWERS.search(text)
    if key == "target":
        return _SIZE_OPERATOR.fullmatch(text) is not None or _is_tensor_operator(text)
    return _HARMLESS.fullmatch(text) is not None


def _is_tensor_operator(text: str) -> bool:
    """Whether ``text`` names an operator overload of the dispatcher that opens no file, and not an attribute of one."""
    match = _OPERATOR.fullmatch(text)
    if match is None or match[2] in _FILE_OPERATORS:
        return False
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    overload = getattr(packet, match[3], None)
    # No public function separates tensor operators from TorchScript's own, which handle lists, modules and files.
    known = torch._C._dispatch_has_kernel  # noqa: SLF001
    return isinstance(overload, OpOverload) and bool(known(overload.name()))


def _is_plain_tree(node: dict[str, object]) -> bool:
    """Whether a tree of inputs or outputs has only plain containers; the context of others imports modules."""
    children, kind, context = cast(list[dict[str, object]], node["children_spec"]), node["type"], node["context"]
    plain = context in (None, "null", "[]") and kind in (*_CONTAINERS, *_NAMED_CONTAINERS)
    return (plain or (kind in _NAMED_CONTAINERS and _are_names(context))) and all(map(_is_plain_tree, children))


def _are_names(context: object) -> bool:
    """Whether the context of a dict is a JSON list of plain texts: its keys."""
    keys = json.loads(context) if isinstance(context, str) else None
    return isinstance(keys, list) and all(isinstance(key, str) and _HARMLESS.fullmatch(key) for key in keys)
