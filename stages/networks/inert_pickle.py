"""What a pickle of PyTorch holds, read without its code: tensors become notes of their size, objects become stand-ins.

The restricted reader of PyTorch runs no code either. But it allocates what a file asks for, and the hash of a nested tuple as
a dict's key can take for ever. So the pickle is read here first, by Python's own interpreter of pickles with all functions and
classes replaced.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import IO, Any, ClassVar, cast

__all__ = ["Content", "StandIn", "TensorNote", "read_content"]

_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that files of PyTorch before 1.6 begin with (torch/serialization.py)."""
_MOST_ELEMENTS = 1 << 63
"""No tensor has more elements. Numbers in a file are cut here, since long ones take minutes to multiply and to print."""
_ALLOCATORS = ("builtins.bytearray", "torch.Tensor")
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_REBUILDERS = ("torch._utils._rebuild_", "torch._tensor._rebuild_")


@dataclass(frozen=True)
class TensorNote:
    """A tensor in a pickle: how it is rebuilt, the kind of its storage, and its number of elements."""

    rebuilt_by: str
    storage: str
    elements: int


class StandIn:
    """An object of the file in whose place nothing is built; ``origin`` is the name of its class or function."""

    origin = ""

    def __new__(cls, *args: object, **_named: object) -> StandIn:
        """Ignore the arguments, but refuse a number as the size of what PyTorch would allocate."""
        is_allocator = cls.origin in _ALLOCATORS or cls.origin.endswith(("Storage", "Tensor"))
        sizes = [_cut(argument) for argument in args if isinstance(argument, int)]
        if is_allocator and sizes:
            raise ValueError(f"it asks for {cls.origin} of {max(sizes)} elements without their values")
        return object.__new__(cls)

    def __init__(self, *args: object, **_named: object) -> None:
        self.arguments = args
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def _ignore(self, *_args: object) -> None:
        """Take the items of a list or a dict of another class."""

    append = extend = add = __setitem__ = _ignore

    @property
    def is_network(self) -> bool:
        """Whether it has the parts of an ``nn.Module``."""
        return isinstance(self.state, dict) and {"_parameters", "_modules"} <= self.state.keys()


@dataclass
class Content:
    """The root object of a pickle, the names of all classes and functions that it asks for, and its tensors."""

    root: object = None
    names: set[str] = field(default_factory=set)
    tensors: list[TensorNote] = field(default_factory=list)
    is_saved: bool = True
    """Whether ``torch.save`` wrote the file, so that ``torch.load`` can read it; a bare pickle it cannot."""


def read_content(path: Path) -> Content:
    """The content of a file of ``torch.save``, or of a bare pickle.

    Raises:
        Exception: a damaged file can raise anything.
    """
    with path.open("rb") as stream:
        if not stream.read(2).startswith(b"PK"):
            stream.seek(0)
            return _legacy(stream)
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return _read(io.BytesIO(archive.read(name)))


def _legacy(stream: IO[bytes]) -> Content:
    """A file of PyTorch before 1.6 is a magic number, a version and a description of the machine, and then the object."""
    first = _read(stream)
    if first.root != _MAGIC:
        return replace(first, is_saved=False)
    for _ in range(2):
        _read(stream)
    return _read(stream)


def _read(stream: IO[bytes]) -> Content:
    reader = _Reader(stream)
    reader.content.root = reader.load()
    return reader.content


class _Reader(pickle._Unpickler):  # noqa: SLF001 (the interpreter in C grows its memory with numbers in the file)
    """Python's interpreter of pickles, in which every function and class of the file is a stand-in."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin-1")
        self.content = Content()
        self._stand_ins: dict[str, Callable[..., object]] = {}

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """A stand-in of the name, which is noted."""
        origin = f"{_PYTHON_2.get(module, module)}.{name}"
        self.content.names.add(origin)
        if origin not in self._stand_ins:
            self._stand_ins[origin] = self._stand_in(origin)
        return self._stand_ins[origin]

    def _stand_in(self, origin: str) -> Callable[..., object]:
        if origin == "collections.OrderedDict":
            return _ordered
        if origin.startswith(_REBUILDERS):
            return lambda *arguments: self._tensor(origin, arguments)
        return type(name, (StandIn,), {"origin": origin}) if (name := origin.rpartition(".")[2]) else StandIn

    def persistent_load(self, pid: object) -> object:
        """A stand-in for a storage: the arguments are its kind, its key, its device and its number of elements."""
        kind, *rest = cast(Sequence[Any], pid)
        if kind == "module":
            # Old files hold a class with its source, which is not looked at.
            return rest[0]
        found = StandIn()
        found.arguments = (kind, *rest)
        return found

    def _tensor(self, origin: str, arguments: tuple[Any, ...]) -> object:
        """A note of the tensor that a function of torch would rebuild."""
        inner = next((each for each in arguments[:1] if isinstance(each, TensorNote)), None)
        if inner is None:
            inner = TensorNote(origin, _storage_of(arguments), _elements(arguments))
            self.content.tensors.append(inner)
        return inner

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001


def _storage_of(arguments: Sequence[Any]) -> str:
    """The kind of a tensor's numbers, such as ``torch.FloatStorage``."""
    names = [getattr(each, "origin", "") for each in arguments if isinstance(each, type)]
    storage = arguments[0].arguments[1:2] if arguments and isinstance(arguments[0], StandIn) else ()
    return next((name for name in (*names, *(getattr(kind, "origin", "") for kind in storage)) if name), "unknown")


def _elements(arguments: Sequence[Any]) -> int:
    """The product of a tensor's sizes: the third argument of the functions that rebuild one from a storage."""
    size = arguments[2] if len(arguments) > 2 else ()
    factors = [_cut(each) for each in size if isinstance(each, int)] if isinstance(size, tuple | list) else [0]
    return reduce(lambda product, factor: _cut(product * factor), factors, 0 if 0 in factors else 1)


def _cut(number: int) -> int:
    """The number without its sign, and at most the largest number of elements."""
    return min(abs(number), _MOST_ELEMENTS)


def _ordered(items: Iterable[tuple[object, object]] = ()) -> OrderedDict[object, object]:
    return OrderedDict((_as_key(key), value) for key, value in items)


def _as_key(key: object) -> object:
    """The key of a dict, refused where its hash can take for ever: the hash of nested tuples is computed at every mention."""
    if isinstance(key, tuple | frozenset) and any(isinstance(inner, tuple | frozenset) for inner in key):
        raise ValueError("it holds nested tuples as the key of a dict")
    return key


def _set_items(reader: Any) -> None:  # noqa: ANN401 (the interpreter's stack is no public part of it)
    items = reader.pop_mark()
    target = reader.stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_as_key(key)] = value


def _set_item(reader: Any) -> None:  # noqa: ANN401
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.stack[-1][_as_key(key)] = value


def _refuse(_reader: object) -> None:
    raise ValueError("it has an instruction that torch.save does not write")


_Reader.dispatch |= {pickle.SETITEMS[0]: _set_items, pickle.SETITEM[0]: _set_item}
for _code in (
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.FROZENSET, pickle.ADDITEMS, pickle.DICT),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
):
    _Reader.dispatch[_code[0]] = _refuse
