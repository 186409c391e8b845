"""The memory that a program of torch.export would need, before it runs: a fake run computes only the sizes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from storage_schemas.errors import WeightsError

__all__ = ["refuse_huge_tensors"]

_VALUES, _VALUES_A_PIXEL = 10_000_000, 1000
"""One tensor may have ten million values, and 1000 for each pixel of the images."""


def refuse_huge_tensors(network: nn.Module, image_shape: Sequence[int], *, source: str) -> None:
    """Run the network without its arithmetic, and refuse it if one of its tensors is far larger than those of networks.

    Raises:
        WeightsError: names the largest allowed size.
    """
    batch, _, height, width = image_shape
    limit = _VALUES + _VALUES_A_PIXEL * batch * height * width
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Limit(limit):
            network(torch.empty(*image_shape))
    except _TooLargeError as error:
        raise WeightsError(
            f"'{source}' asks for a tensor of {error.values} values for {batch}x3x{height}x{width} images",
            allowed=f"at most {limit} values in one tensor",
        ) from None
    except Exception:
        # The trial cannot run every network, such as one that asks for a value. The real run tells whether it works.
        return


class _TooLargeError(Exception):
    def __init__(self, values: int) -> None:
        super().__init__(values)
        self.values = values


class _Limit(TorchDispatchMode):
    """Stops at the first operator whose output has more values than ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit = limit

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 (operators return anything)
        output = func(*args, **(kwargs or {}))
        sizes = [math.prod(each.shape) for each in tree_iter(output) if isinstance(each, Tensor)]
        if max(sizes, default=0) > self._limit:
            raise _TooLargeError(max(sizes))
        return output
