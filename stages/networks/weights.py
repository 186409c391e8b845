"""Published weights: reading files that may be hostile, bringing their key names to HRNet's own, and fitting them strictly.

Layouts: HRNet's state dicts and checkpoints, mmpose 0.x (``keypoint_head.``) and 1.x (``head.``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from storage_schemas.errors import WeightsError

__all__ = ["FitReport", "fit_weights", "load_state_dict_file"]

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_WRAPPERS = ("state_dict", "model")
_SHOWN = 6
_CONVERT = (
    'where that framework is installed, and if you trust the file: python -c "import torch; '
    "c = torch.load('{path}', map_location='cpu', weights_only=False); "
    "torch.save({{'state_dict': c['state_dict']}}, '{path}.clean.pth')\""
)
# What a classification network has and a pose network has not (HRNet-Image-Classification, lib/models/cls_hrnet.py).
_CLASSIFIER = re.compile(
    r"(incre_modules|downsamp_modules|final_layer|classifier|head)\..*|stage4\.\d+\.fuse_layers\.[123]\..*"
)


@dataclass(frozen=True)
class FitReport:
    """What came of fitting weights to a network."""

    loaded: int
    required: int
    missing: tuple[str, ...] = ()
    """Kept as they were: batch counters, or a head that a classification backbone cannot have."""
    ignored: tuple[str, ...] = ()
    """Left out on purpose: a classifier's tensors."""


def load_state_dict_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by HRNet's key names, on the CPU; code in the file is never run.

    Raises ``WeightsError`` for a file that is missing, damaged, not a state dict, or in need of code to be read.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file at '{path}'", allowed="a file ending in .pth, .pt or .safetensors")
    if path.suffix == ".safetensors":
        return _official_names(_read_safetensors(path), path=path)
    if path.suffix in _TORCH_SUFFIXES:
        return _official_names(_unwrap(_read_torch(path), path=path), path=path)
    raise WeightsError(f"weights file '{path}' ends in '{path.suffix}'", allowed=".pth, .pt or .safetensors")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{path}' is not a readable safetensors file: {error}", allowed="a complete file") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """Why the restricted reader gave up, and what the user can do about it."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"global[: ]+`?([\w.]+)", text, re.IGNORECASE)
    if found is None:
        return WeightsError(
            f"'{path}' cannot be read as a PyTorch weights file: {text.splitlines()[0] if text else type(error).__name__}",
            allowed="a complete file that torch.save wrote, holding a dict of tensors",
        )
    return WeightsError(
        f"'{path}' needs '{found.group(1)}' to be read, which is code and not weights; nothing of it was run",
        allowed="tensors, numbers, strings, lists and dicts (a training checkpoint of mmengine holds HistoryBuffer objects)",
        run=_CONVERT.format(path=path),
    )


def _unwrap(content: object, *, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in ``content``, which may be wrapped in a checkpoint's dict."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"'{path}' holds {type(content).__name__} without tensors", allowed="a dict of names and tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"'{path}' holds {type(value).__name__} under {name!r:.80}",
                allowed=f"tensors only, or a dict with them under {' or '.join(map(repr, _WRAPPERS))}",
            )
    return dict(content)


def _official_names(state: dict[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    """``state`` under HRNet's own names, whichever framework named it."""
    layers = {match.group(1) for name in state if (match := re.fullmatch(r".*final_layer\.(\d+)\.weight", name))}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        official = name.removeprefix("module.").removeprefix("backbone.")
        official = re.sub(r"^(keypoint_)?head\.final_layer\.", "final_layer.", official)
        if len(layers) == 1 and _is_mmpose(name):
            # A numbered layer is the head's only one here; several are another head, whose names then do not fit.
            official = re.sub(r"^final_layer\.\d+\.", "final_layer.", official)
        if official in named:
            raise WeightsError(f"'{path}' holds '{official}' twice, once as '{name}'", allowed="one layout in a file")
        named[official] = value
    return named


def _is_mmpose(name: str) -> bool:
    return name.removeprefix("module.").startswith(("head.", "keypoint_head."))


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], *, source: str, allow_missing_head: bool = False) -> FitReport:
    """Copy ``state`` into ``network``, strictly by name and shape; ``source`` names the weights in messages.

    With ``allow_missing_head`` a classification backbone is taken too: ``final_layer`` keeps its first weights and the
    classifier's tensors are left out. Raises ``WeightsError``, and changes nothing, where a tensor is missing, left over, of
    another shape, or not finite.
    """
    own = network.state_dict()
    ignored = tuple(name for name in state if allow_missing_head and _is_classifier(name, state, own))
    taken = {name: value for name, value in state.items() if name not in ignored}
    missing = tuple(name for name in own if name not in taken)
    problems = {
        "missing": [name for name in missing if not _may_lack(name, allow_missing_head=allow_missing_head)],
        "unexpected": [name for name in taken if name not in own],
        "shape differs": [_misfit(name, taken, own) for name in own if name in taken and not _fits(taken[name], own[name])],
    }
    if any(problems.values()):
        raise _no_fit(problems, source=source, fitting=sum(_fits(taken[n], own[n]) for n in own if n in taken), total=len(own))
    _refuse_non_finite(taken, source=source)
    network.load_state_dict(taken, strict=False)
    return FitReport(loaded=len(taken), required=len(own), missing=missing, ignored=ignored)


def _fits(value: Tensor, own: Tensor) -> bool:
    """Same shape, and a float for a float: half precision widens without harm, integers for weights are another thing."""
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point() and value.layout == torch.strided


def _misfit(name: str, taken: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if taken[name].shape != own[name].shape:
        return f"{name} {list(taken[name].shape)} for {list(own[name].shape)}"
    return f"{name} {taken[name].dtype} for {own[name].dtype}"


def _is_classifier(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return _CLASSIFIER.fullmatch(name) is not None and not (name in own and _fits(state[name], own[name]))


def _may_lack(name: str, *, allow_missing_head: bool) -> bool:
    # Files of PyTorch before 0.4.1 have no batch counters, and nothing here reads them.
    return name.endswith("num_batches_tracked") or (allow_missing_head and name.startswith("final_layer."))


def _no_fit(problems: Mapping[str, list[str]], *, source: str, fitting: int, total: int) -> WeightsError:
    lists = "; ".join(f"{what}: {_shorten(names)}" for what, names in problems.items() if names)
    return WeightsError(
        f"'{source}' does not fit the network: loaded {fitting} of {total} tensors; {lists}",
        allowed="weights of exactly this network: check its name, its width and its number of joints",
    )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _refuse_non_finite(state: Mapping[str, Tensor], *, source: str) -> None:
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(f"'{source}' holds NaN or infinity in: {_shorten(bad)}", allowed="finite weights")
