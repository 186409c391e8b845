"""A process that loads an ONNX file and runs it once: ``python onnx_child.py FILE WIDTH HEIGHT BATCH SECONDS BYTES``.

The last line that it prints is a JSON text: the step that failed and the reason, or nothing in both. onnxruntime can crash on a
broken file, a loop in the file can have no end, and a tensor of any size can be asked for; here they end this process only.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str]) -> tuple[str, str]:
    """Load and run the file within the limits; return the step that failed and the reason, or two empty texts."""
    path, *numbers = arguments
    width, height, batch, seconds, size = map(int, numbers)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    import numpy as np
    import onnxruntime

    # What the libraries have taken depends on the number of cores; a page is the unit of this file.
    taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (taken + size, taken + size))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    step = "read"
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        step = "run"
        wanted = (batch, 3, height, width)
        shape = inputs[0].shape if len(inputs) == 1 else []
        # The caller says what is wrong with inputs of another size.
        if len(shape) == 4 and all(not isinstance(size, int) or size == want for size, want in zip(shape, wanted, strict=True)):
            session.run(None, {inputs[0].name: np.zeros(wanted, np.float32)})
    except Exception as error:  # onnxruntime's errors share no base class
        return step, (str(error).splitlines() or [type(error).__name__])[0]
    return "", ""


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))  # noqa: T201 (the caller reads it)
