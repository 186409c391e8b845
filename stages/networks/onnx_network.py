"""Networks in ``.onnx`` files: onnxruntime, an optional package, runs them; they cannot be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from storage_schemas.errors import Remedy, WeightsError

__all__ = ["OnnxNetwork", "require_onnxruntime"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_INSTALL = {
    "cpu": Remedy("shell", text="pip install onnxruntime"),
    "cuda": Remedy("shell", text="pip install onnxruntime-gpu", settings=("cluster.device=cpu",)),
}


class OnnxNetwork(nn.Module):
    """An ONNX file as a network without parameters: image [B, 3, h, w] to heatmaps [B, K, H, W].

    Args:
        path: the file.
        threads: threads of onnxruntime; 0 means its own choice.
        device: where onnxruntime computes; the images may be on another device.

    Raises:
        WeightsError: onnxruntime is missing or cannot use the device, or the file is broken or has several inputs or outputs.
    """

    def __init__(self, path: Path, *, threads: int = 0, device: Literal["cpu", "cuda"] = "cpu") -> None:
        super().__init__()
        require_onnxruntime(path, device)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads would spin, and take the cores from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=_providers(device))
        except Exception as error:  # onnxruntime's errors share no base class
            reason = str(error).splitlines()[0]
            raise WeightsError(f"'{path}' cannot be read as ONNX: {reason}", allowed="a complete ONNX file") from error
        if device == "cuda":
            # If CUDA's libraries are missing, onnxruntime only logs that and uses the CPU.
            _require_cuda(self.session.get_providers()[:1], path)
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise WeightsError(f"'{path}' takes {len(inputs)} inputs", allowed="one: the image")
        if len(outputs := [output.name for output in self.session.get_outputs()]) != 1:
            # Of stacked networks the last output is the best one, of others the first: a guess would be silent.
            raise WeightsError(
                f"'{path}' gives {len(outputs)} outputs: {', '.join(outputs)[:200]}",
                allowed="one: the heatmaps",
                remedy=Remedy("advice", text="export the network again with the heatmaps as its only output"),
            )
        self._input = inputs[0].name
        self.input_shape: tuple[int | None, ...] = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        """Sizes of the input; None where any size is accepted."""

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """The output for normalised images, float32, on the images' device; without gradients."""
        array = image_B3hw.detach().to("cpu", torch.float32).contiguous().numpy()
        [heat] = self.session.run(None, {self._input: array})
        return torch.from_numpy(heat).to(image_B3hw.device)


def require_onnxruntime(path: Path, device: Literal["cpu", "cuda"]) -> None:
    """Raise ``WeightsError`` if onnxruntime is not installed, or not for the device."""
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(f"'{path}' needs onnxruntime, which is not installed", remedy=_INSTALL[device]) from error
    if device == "cuda":
        _require_cuda(onnxruntime.get_available_providers(), path)


def _providers(device: Literal["cpu", "cuda"]) -> list[Any]:
    # TF32 keeps 10 of a float32's 23 bits, but the recipe of the targets says float32.
    return [(_CUDA, {"use_tf32": "0"}), _CPU] if device == "cuda" else [_CPU]


def _require_cuda(providers: list[str], path: Path) -> None:
    if _CUDA not in providers:
        raise WeightsError(
            f"'{path}' cannot run on the device cuda: onnxruntime offers {', '.join(providers)}",
            allowed=f"{_CUDA}, or the device cpu",
            remedy=_INSTALL["cuda"],
        )
