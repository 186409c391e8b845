"""Teachers that come as ``.onnx``: run by onnxruntime, which is an optional package, and never trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from storage_schemas.errors import WeightsError

__all__ = ["OnnxNetwork"]


class OnnxNetwork(nn.Module):
    """An ONNX file as a network without weights of its own: image [B, 3, h, w] to heatmaps [B, K, H, W].

    ``threads`` are onnxruntime's own (0: as many as it likes); it runs on a GPU where its package supports one. Raises
    ``WeightsError`` where the package is missing, or the file is broken or takes anything but one input.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise WeightsError(f"'{path}' needs onnxruntime, which is not installed", run="pip install 'odkd[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin take the cores from everything else on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        known = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors share no base class
            reason = str(error).splitlines()[0]
            raise WeightsError(f"'{path}' cannot be read as ONNX: {reason}", allowed="a complete ONNX file") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise WeightsError(f"'{path}' takes {len(inputs)} inputs", allowed="one: the image")
        self._input = inputs[0].name
        self.input_shape: tuple[int | None, ...] = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        """Sizes of the one input; None where any size is taken."""

    def forward(self, image_B3hw: Tensor) -> Tensor:
        """The first output for normalised images, float32, on the images' device; without gradients."""
        array = image_B3hw.detach().to("cpu", torch.float32).contiguous().numpy()
        [heat, *_] = self.session.run(None, {self._input: array})
        return torch.from_numpy(heat).to(image_B3hw.device)
