"""The command that converts a checkpoint whose pickle needs code: computed from what the file holds, or none."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.networks.inert_pickle import Content, StandIn, TensorNote
from storage_schemas.errors import Remedy, WeightsError

__all__ = ["WRAPPERS", "needs_code", "other_protocol"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "ema", "net", "network")
"""The names under which checkpoints keep the state dict, from the most to the least likely."""

_DATA = "tensors, numbers, strings, lists and dicts"
_CAN_HARM = (
    *("os", "posix", "nt", "sys", "subprocess", "io", "_io", "socket", "shutil", "pty", "runpy", "importlib", "pickle"),
    *("ctypes", "marshal", "webbrowser", "operator", "_operator", "functools", "types", "code", "asyncio", "urllib", "http"),
)
"""Packages whose functions a pickle names to attack; no training script keeps their objects in a checkpoint."""
_HARMLESS_BUILTINS = ("set", "frozenset", "complex", "slice", "range", "object", "list", "dict", "tuple", "int", "float", "str")


def needs_code(path: Path, name: str, content: Content) -> WeightsError:
    """The error for a file that needs the class or function ``name``, with the command that converts the file if one can."""
    seen = f"'{path}' needs '{name}' to be read, which is code and not weights; no code of the file was run"
    if any(_can_harm(each) for each in content.names):
        return WeightsError(seen, allowed=f"{_DATA}; a checkpoint has no use for this function, so do not trust the file")
    if not content.is_saved:
        return WeightsError(seen, allowed=f"{_DATA}, in a file that torch.save wrote")
    expression = _expression(content.root)
    if expression is None:
        return WeightsError(seen, allowed=f"{_DATA}, with the network's weights among them")
    command = _command(path, expression)
    missing = sorted({each.partition(".")[0] for each in content.names if not _is_importable(each)})
    if "__main__" in missing:
        saved = "torch.save(network.state_dict(), FILE) in the script that defines its classes"
        return WeightsError(seen, allowed=f"{_DATA}, such as the file that {saved} writes")
    allowed = f"{_DATA}; the command converts the file by running the code in it, so use it only if you trust the file"
    if missing:
        text = f"in an environment where Python can import {', '.join(missing)}: {command}"
        return WeightsError(seen, allowed=allowed, remedy=Remedy("advice", text=text))
    return WeightsError(seen, allowed=allowed, remedy=Remedy("shell", text=command))


def other_protocol(path: Path, content: Content) -> WeightsError:
    """The error for a file without code whose pickle has another protocol than the one that the restricted reader knows."""
    seen = f"'{path}' cannot be read as a PyTorch weights file: its pickle has another protocol than 2"
    expression = _expression(content.root) if content.is_saved else None
    is_plain = expression is not None and not any(_can_harm(each) or not _is_importable(each) for each in content.names)
    remedy = Remedy("shell", text=_command(path, str(expression))) if is_plain else None
    return WeightsError(seen, allowed="a file that torch.save wrote with the protocol 2, which is its default", remedy=remedy)


def _command(path: Path, expression: str) -> str:
    # Beside the file, or in the working directory if its folder cannot be written.
    folder = path.parent if os.access(path.parent, os.W_OK) else Path()
    target = folder / f"{path.name}.clean.pth"
    code = (
        "import sys, torch; c = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        f"torch.save({{'state_dict': {expression}}}, sys.argv[2])"
    )
    return f'python -c "{code}" {shlex.quote(str(path))} {shlex.quote(str(target))}'


def _expression(root: object) -> str | None:
    """The Python expression for the state dict in the checkpoint ``c``, or None if the file holds none."""
    if isinstance(root, StandIn):
        return "c.state_dict()" if root.is_network else None
    if not isinstance(root, Mapping):
        return None
    others = [key for key in root if isinstance(key, str) and re.fullmatch(r"[\w.-]+", key) and key not in WRAPPERS]
    for key in (*WRAPPERS, *others):
        found = root.get(key)
        if isinstance(found, StandIn) and found.is_network:
            return f"c['{key}'].state_dict()"
        if isinstance(found, Mapping) and _holds_tensors(found) and key in WRAPPERS:
            return _tensors_of(f"c['{key}']", found)
    return _tensors_of("c", root) if _holds_tensors(root) else None


def _holds_tensors(found: Mapping[object, object]) -> bool:
    return any(isinstance(value, TensorNote) for value in found.values())


def _tensors_of(expression: str, found: Mapping[object, object]) -> str:
    if all(isinstance(value, TensorNote) for value in found.values()):
        return expression
    return f"{{k: v for k, v in {expression}.items() if torch.is_tensor(v)}}"


def _can_harm(name: str) -> bool:
    package, _, rest = name.partition(".")
    return package in _CAN_HARM or (package == "builtins" and rest not in _HARMLESS_BUILTINS)


def _is_importable(name: str) -> bool:
    """Whether Python would find the class; its package is not imported, because that runs code."""
    module, _, last = name.rpartition(".")
    package = module.partition(".")[0]
    if package == "__main__":
        return False
    if module in sys.modules:
        return hasattr(sys.modules[module], last)
    return package in sys.modules or importlib.util.find_spec(package) is not None
