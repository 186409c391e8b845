"""Published weights: read files that may be hostile, rename their keys to the network's names, and fit them strictly.

Layouts: state dicts and checkpoints with the authors' names, mmpose 0.x (``keypoint_head.``) and 1.x (``head.``).
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.networks.conversion import WRAPPERS, needs_code, other_protocol
from stages.networks.file_kind import begins_with, check_archive, refuse_other_kind
from stages.networks.inert_pickle import Content, read_content
from storage_schemas.errors import WeightsError

__all__ = ["fit_weights", "load_state_dict_file", "read_tensors", "refuse_non_finite"]

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_ARCHIVE = "'PK"
"""The first bytes of an archive as ``begins_with`` shows them."""
_SHOWN = 6
_COMPLETE = "a complete file that torch.save wrote, holding a dict of tensors"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def load_state_dict_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, by the authors' key names; raises as ``read_tensors`` does."""
    return _official_names(read_tensors(path), path=path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, by the names in the file; code in the file never runs.

    Raises:
        WeightsError: the file is missing, damaged, not a state dict, needs code to be read, or holds tensors of other kinds.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at '{path}'", allowed="a file ending in .pth, .pt or .safetensors")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state = _unwrap(_read_torch(path), path=path)
    else:
        raise WeightsError(f"weights file '{path}' ends in '{path.suffix}'", allowed=".pth, .pt or .safetensors")
    _refuse_unusable(state, source=str(path))
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    refuse_other_kind(path, wanted="safetensors")
    try:
        return load_file(path)
    except Exception as error:  # a hostile header can raise anything
        raise WeightsError(
            f"'{path}' is not a readable safetensors file: {_reason(error)}", allowed="a complete file"
        ) from error


def _read_torch(path: Path) -> object:
    refuse_other_kind(path, wanted="torch")
    content = _content(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of other pickle protocols than its own; the file is read or refused.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        raise _unreadable(path, error, content) from error


def _content(path: Path) -> Content:
    """What the file holds, before PyTorch allocates anything for it."""
    try:
        if begins_with(path).startswith(_ARCHIVE):
            check_archive(path, allowed=_COMPLETE)
        content = read_content(path)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        is_told = isinstance(error, ValueError | zipfile.BadZipFile | pickle.UnpicklingError)
        raise _broken(path, _reason(error) if is_told else "it holds no complete pickle") from error
    size = path.stat().st_size
    most = max((tensor.elements for tensor in content.tensors), default=0)
    if most > size:
        raise WeightsError(f"'{path}' has {size} bytes and holds a tensor of {most} numbers", allowed=_COMPLETE)
    return content


def _unreadable(path: Path, error: Exception, content: Content) -> WeightsError:
    """The reason why the restricted reader failed, and what the user can do."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"global[: ]+`?([\w.]+)", text, re.IGNORECASE)
    if found is not None:
        return needs_code(path, found.group(1), content)
    # PyTorch's own text advises to read the file unsafely.
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    if reason and reason.group(1).startswith("Unsupported operand"):
        return other_protocol(path, content)
    return _broken(path, reason.group(1) if reason else _reason(error))


def _broken(path: Path, reason: str) -> WeightsError:
    size, beginning = path.stat().st_size, begins_with(path)
    # All archives begin alike.
    shown = "" if beginning.startswith(_ARCHIVE) else f" and begins with {beginning}"
    return WeightsError(
        f"'{path}' cannot be read as a PyTorch weights file: {reason}; it has {size} bytes{shown}", allowed=_COMPLETE
    )


def _reason(error: Exception) -> str:
    """The first line of an error, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines and "weights_only" not in lines[0] else type(error).__name__


def _unwrap(content: object, *, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in ``content``, which may be a checkpoint that holds this dict."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"'{path}' holds {type(content).__name__} without tensors", allowed="a dict of names and tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"'{path}' holds {type(value).__name__} under {name!r:.80}",
                allowed=f"tensors only, or a dict with them under {' or '.join(map(repr, WRAPPERS))}",
            )
    return dict(content)


def _refuse_unusable(state: Mapping[str, Tensor], *, source: str) -> None:
    found = [f"{name} ({why})" for name, value in state.items() if (why := _why_unusable(value))]
    if found:
        raise WeightsError(
            f"'{source}' holds tensors that are no weights: {_shorten(found)}",
            allowed="dense tensors of float32, float64, float16 or bfloat16, and integers for counters",
        )


def _why_unusable(value: Tensor) -> str:
    """Why a tensor cannot be a weight, or an empty text."""
    if value.is_meta:
        return "without values, on the device meta"
    if value.is_nested:
        return "nested"
    if value.layout != torch.strided:
        return f"not dense, {str(value.layout).removeprefix('torch.')}"
    if value.dtype not in (*_FLOATS, *_INTEGERS):
        return str(value.dtype).removeprefix("torch.")
    return ""


def _official_names(state: dict[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    """``state`` with the authors' key names, from any of the known layouts."""
    layers = {match.group(1) for name in state if (match := re.fullmatch(r".*final_layer\.(\d+)\.weight", name))}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        official = name.removeprefix("module.").removeprefix("backbone.").removeprefix("model.module.")
        official = re.sub(r"^(keypoint_)?head\.(final_layer|deconv_layers)\.", r"\2.", official)
        if len(layers) == 1 and _is_mmpose(name):
            # mmpose numbers the layer of a head with one layer; the names of a head with several do not fit.
            official = re.sub(r"^final_layer\.\d+\.", "final_layer.", official)
        if official in named:
            raise WeightsError(f"'{path}' holds '{official}' twice, once as '{name}'", allowed="one layout in a file")
        named[official] = value
    return named


def _is_mmpose(name: str) -> bool:
    return name.removeprefix("module.").startswith(("head.", "keypoint_head."))


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy ``state`` into ``network``, strictly by name and shape; ``source`` names the weights in messages.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape or kind, or not finite; the network is unchanged.
    """
    _refuse_unusable(state, source=source)
    own = network.state_dict()
    # Files of PyTorch before 0.4.1 lack batch counters, which are not used here.
    required = [name for name in own if not name.endswith("num_batches_tracked")]
    problems = {
        "missing": [name for name in required if name not in state],
        "unexpected": [name for name in state if name not in own],
        "shape differs": [_misfit(name, state, own) for name in own if name in state and not _fits(state[name], own[name])],
    }
    if any(problems.values()):
        raise _no_fit(problems, source=source, fitting=sum(_fits(state[n], own[n]) for n in own if n in state), total=len(own))
    refuse_non_finite(state, source=source)
    network.load_state_dict(state, strict=False)


def _fits(value: Tensor, own: Tensor) -> bool:
    """Whether shape and kind of number agree: half precision becomes float32, but integers are not weights."""
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point()


def _misfit(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if state[name].shape != own[name].shape:
        return f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
    return f"{name} {state[name].dtype} for {own[name].dtype}"


def _no_fit(problems: Mapping[str, list[str]], *, source: str, fitting: int, total: int) -> WeightsError:
    lists = "; ".join(f"{what}: {_shorten(names)}" for what, names in problems.items() if names)
    return WeightsError(
        f"'{source}' does not fit the network: loaded {fitting} of {total} tensors; {lists}",
        allowed="weights of exactly this network: check its name, its width and its number of keypoints",
    )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def refuse_non_finite(state: Mapping[str, Tensor], *, source: str) -> None:
    """Raise ``WeightsError`` if a tensor holds NaN or infinity; ``source`` names the file."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(f"'{source}' holds NaN or infinity in: {_shorten(bad)}", allowed="finite weights")
