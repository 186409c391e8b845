"""Published weights: read files that may be hostile, rename their keys to the network's names, and fit them strictly.

Layouts: state dicts and checkpoints with the authors' names, mmpose 0.x (``keypoint_head.``) and 1.x (``head.``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from storage_schemas.errors import Remedy, WeightsError

__all__ = ["fit_weights", "load_state_dict_file"]

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_WRAPPERS = ("state_dict", "model")
_SHOWN = 6
_CONVERT = (
    'where that framework is installed, and if you trust the file: python -c "import torch; '
    "c = torch.load('{path}', map_location='cpu', weights_only=False); "
    "torch.save({{'state_dict': c['state_dict']}}, '{path}.clean.pth')\""
)


def load_state_dict_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, by the authors' key names; code in the file never runs.

    Raises:
        WeightsError: the file is missing, damaged, not a state dict, or needs code to be read.
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
    """The reason why the restricted reader failed, and what the user can do."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"global[: ]+`?([\w.]+)", text, re.IGNORECASE)
    if found is None:
        return WeightsError(
            f"'{path}' cannot be read as a PyTorch weights file: {text.splitlines()[0] if text else type(error).__name__}",
            allowed="a complete file that torch.save wrote, holding a dict of tensors",
        )
    return WeightsError(
        f"'{path}' needs '{found.group(1)}' to be read, which is code and not weights; no code of the file was run",
        allowed="tensors, numbers, strings, lists and dicts (a training checkpoint of mmengine holds HistoryBuffer objects)",
        remedy=Remedy("shell", text=_CONVERT.format(path=path)),
    )


def _unwrap(content: object, *, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in ``content``, which may be a checkpoint that holds this dict."""
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
    """``state`` with the authors' key names, from any of the known layouts."""
    layers = {match.group(1) for name in state if (match := re.fullmatch(r".*final_layer\.(\d+)\.weight", name))}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        official = name.removeprefix("module.").removeprefix("backbone.")
        official = re.sub(r"^(keypoint_)?head\.final_layer\.", "final_layer.", official)
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
        WeightsError: a tensor is missing, unexpected, of another shape, or not finite; the network is unchanged.
    """
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
    _refuse_non_finite(state, source=source)
    network.load_state_dict(state, strict=False)


def _fits(value: Tensor, own: Tensor) -> bool:
    """Whether shape and kind of number agree: half precision becomes float32, but integers are not weights."""
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point() and value.layout == torch.strided


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


def _refuse_non_finite(state: Mapping[str, Tensor], *, source: str) -> None:
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(f"'{source}' holds NaN or infinity in: {_shorten(bad)}", allowed="finite weights")
