"""Small ONNX networks as bytes, written field by field (onnx/onnx.proto): the package ``onnx`` is not needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage_schemas.paths.local import LocalPath

__all__ = ["convolution", "endless_loop", "field", "huge_constant", "model", "node", "tensor", "two_outputs", "with_data_file"]

_FLOAT, _INT64, _BOOL = 1, 7, 9


def number(value: int) -> bytes:
    """A number of seven bits in each byte."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(key: int, value: bytes | str | int) -> bytes:
    """One field of a message: a number, or bytes with their length."""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    data = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(data)) + data


def tensor(
    name: str, values: npt.NDArray[np.float32 | np.int64 | np.bool_], *, data_file: tuple[str, int] | None = None
) -> bytes:
    """A TensorProto; with ``data_file`` its values are in that file from a byte on."""
    kind = {"f": _FLOAT, "i": _INT64, "b": _BOOL}[values.dtype.kind]
    head = b"".join(field(1, size) for size in values.shape) + field(2, kind) + field(8, name)
    if data_file is None:
        return head + field(9, values.tobytes())
    entries = {"location": data_file[0], "offset": str(data_file[1]), "length": str(values.nbytes)}
    return head + b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries.items()) + field(14, 1)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    """A NodeProto."""
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    return names + field(4, operator) + b"".join(field(5, each) for each in attributes)


def integers(name: str, values: Sequence[int]) -> bytes:
    """An attribute that is a list of numbers."""
    return field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7)


def value_info(name: str, kind: int, sizes: Sequence[int | str] | None) -> bytes:
    """The type of an input or output; a text is a size that can vary."""
    shape = (
        b"" if sizes is None else field(2, b"".join(field(1, field(2 if isinstance(size, str) else 1, size)) for size in sizes))
    )
    return field(1, name) + field(2, field(1, field(1, kind) + shape))


def model(nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    """A ModelProto."""
    graph = b"".join(field(1, each) for each in nodes) + field(2, "graph") + b"".join(field(5, each) for each in tensors)
    graph += b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def _image(width: int, height: int) -> bytes:
    return value_info("image", _FLOAT, ["batch", 3, height, width])


def convolution(width: int, height: int, *, data_file: str = "", seed: int = 0, joints: int = 17) -> tuple[bytes, bytes]:
    """A network of one strided convolution, and the bytes of its data file."""
    weight = np.random.default_rng(seed).standard_normal((joints, 3, 4, 4)).astype(np.float32)
    bias = np.linspace(0, 1, joints, dtype=np.float32)
    at = [(data_file, 0), (data_file, weight.nbytes)] if data_file else [None, None]
    tensors = [tensor("weight", weight, data_file=at[0]), tensor("bias", bias, data_file=at[1])]
    strides = (integers("strides", [4, 4]), integers("kernel_shape", [4, 4]))
    layer = node("Conv", ["image", "weight", "bias"], ["heatmaps"], *strides)
    output = value_info("heatmaps", _FLOAT, ["batch", joints, height // 4, width // 4])
    return model([layer], tensors, [_image(width, height)], [output]), weight.tobytes() + bias.tobytes()


def with_data_file(
    folder: LocalPath, *, name: str = "teacher.onnx.data", seed: int = 0, wh: tuple[int, int] = (32, 64)
) -> LocalPath:
    """Write ``teacher.onnx`` and its data file to ``folder``, and return the path of the first."""
    network, data = convolution(*wh, data_file=name, seed=seed)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    (folder / "teacher.onnx").write_bytes(network)
    return folder / "teacher.onnx"


def two_outputs(width: int, height: int) -> bytes:
    """A network with two outputs, such as the stacks of an hourglass."""
    names = ("stack_1", "stack_2")
    outputs = [value_info(name, _FLOAT, ["batch", 3, height, width]) for name in names]
    return model([node("Relu", ["image"], [name]) for name in names], [], [_image(width, height)], outputs)


def endless_loop(width: int, height: int) -> bytes:
    """A network with a loop whose condition stays true for 2^62 rounds."""
    true = tensor("true", np.array(True))
    body = b"".join(
        [
            field(1, node("Identity", ["condition"], ["next"])),
            field(1, node("Add", ["state", "one"], ["sum"])),
            field(2, "body"),
            field(11, value_info("round", _INT64, [])),
            field(11, value_info("condition", _BOOL, [])),
            field(11, value_info("state", _FLOAT, None)),
            field(12, value_info("next", _BOOL, [])),
            field(12, value_info("sum", _FLOAT, None)),
        ]
    )
    rounds = tensor("rounds", np.array(1 << 62, np.int64))
    one = tensor("one", np.array(1, np.float32))
    loop = node("Loop", ["rounds", "true", "image"], ["heatmaps"], field(1, "body") + field(6, body) + field(20, 5))
    output = value_info("heatmaps", _FLOAT, None)
    return model([loop], [rounds, true, one], [_image(width, height)], [output])


def huge_constant(width: int, height: int, *, elements: int = 1 << 36) -> bytes:
    """A network that asks for a tensor of zeros with ``elements`` elements."""
    shape = tensor("shape", np.array([elements], np.int64))
    zeros = node("ConstantOfShape", ["shape"], ["zeros"])
    total = node("ReduceSum", ["zeros"], ["sum"])
    added = node("Add", ["image", "sum"], ["heatmaps"])
    return model([zeros, total, added], [shape], [_image(width, height)], [value_info("heatmaps", _FLOAT, None)])
