"""Programs of torch.export: they compute and can be trained, and no code from their files runs."""

from __future__ import annotations

import io
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stages.networks.exported import ExportedNetwork, _is_harmless, load_exported
from storage_schemas.errors import WeightsError

Json = dict[str, Any]
Members = dict[str, bytes]


class _TinyTeacher(nn.Module):
    """A quarter of the size, two joints, with a size expression and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.head(self.norm(self.conv(image)))
        return heat.reshape(image.shape[0] * 2, 8, 8).reshape(-1, 2, 8, 8)


@pytest.fixture(scope="module")
def teacher() -> _TinyTeacher:
    torch.manual_seed(0)
    return _TinyTeacher().eval()


@pytest.fixture(scope="module")
def archive(teacher: _TinyTeacher) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(teacher, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def _altered(archive: bytes, path: Path, change: Callable[[Members], None]) -> Path:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    return path


def _member(members: Members, part: str) -> str:
    [name] = [name for name in members if part in name]
    return name


@pytest.fixture
def network(archive: bytes, tmp_path: Path) -> ExportedNetwork:
    path = tmp_path / "teacher.pt2"
    path.write_bytes(archive)
    return load_exported(path)


def test_a_program_gives_its_networks_numbers_for_any_batch(network: ExportedNetwork, teacher: _TinyTeacher) -> None:
    for batch in (1, 3):
        image = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(network(image), teacher(image))
    assert network.input_shape == (None, 3, 32, 32)


def test_modes_do_not_reach_into_the_program(network: ExportedNetwork) -> None:
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network.eval()(image)
        assert not network.training
        assert torch.equal(network.train()(image), before)
        assert network.training
        assert torch.equal(network.eval()(image), before)


def test_one_step_of_training_changes_the_output_of_a_program(network: ExportedNetwork) -> None:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = network.train()(image)
    before.square().mean().backward()
    optimizer.step()
    assert network(image).square().mean() < before.square().mean()


class _Evil:
    """A pickle that leaves a trace when it is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.trace), "w"))


def test_evil_sample_inputs_are_left_out_and_never_run(archive: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    stream = io.BytesIO()
    torch.save((_Evil(trace),), stream)

    def change(members: Members) -> None:
        members[_member(members, "/sample_inputs/")] = stream.getvalue()

    network = load_exported(_altered(archive, tmp_path / "evil.pt2", change))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 8, 8)
    assert not trace.exists()


def test_pickled_and_compiled_parts_are_refused_and_never_run(archive: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    evil = pickle.dumps(_Evil(trace))
    parts = (
        "data/weights/model.pt",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/x.so",
    )
    for part in parts:

        def change(members: Members, part: str = part) -> None:
            members[f"{next(iter(members)).partition('/')[0]}/{part}"] = evil

        with pytest.raises(WeightsError, match="no code of the file was run"):
            load_exported(_altered(archive, tmp_path / "evil.pt2", change))
    assert not trace.exists()


def test_weights_marked_as_pickles_are_refused_and_never_run(archive: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    stream = io.BytesIO()
    torch.save(_Evil(trace), stream)

    def change(members: Members) -> None:
        config_name = _member(members, "_weights_config.json")
        config = json.loads(members[config_name])
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        members[config_name] = json.dumps(config).encode()
        members[_member(members, f"/weights/{first['path_name']}")] = stream.getvalue()

    with pytest.raises(WeightsError, match="pickled tensors"):
        load_exported(_altered(archive, tmp_path / "evil.pt2", change))
    assert not trace.exists()


def _rewrite(old: str, new: str) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        name = _member(members, "/models/")
        text = members[name].decode()
        assert old in text
        members[name] = text.replace(old, new).encode()

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Symbol('", "open('{trace}', 'w') or Symbol('"),
        ("Symbol('", "9**9**9**9 + Symbol('"),
        ("Symbol('", "Pow(9, Pow(9, Pow(9, 9))) + Symbol('"),
        ("Symbol('", "Pow(2, 99999999999) + Symbol('"),
        ('"image"', '"image=open(chr(97), chr(119))"'),
        ("torch.ops.aten.reshape.default", "torch.os.system"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.from_file.default"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.from_file.out"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.save.default"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.reshape.default.__init__.__globals__.get"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.reshape.decompose"),
        ("torch.ops.aten.reshape.default", "torch.ops.aten.reshape"),
        ("torch.ops.aten.reshape.default", "torch.ops.higher_order.run_and_save_rng_state"),
        ("_operator.mul", "_operator.call"),
        ("_operator.mul", "_operator.pow"),
        ("_operator.mul", "_operator.lshift"),
        ("_operator.mul", "_operator.attrgetter"),
        ("_operator.mul", "_operator.methodcaller"),
        ("_operator.mul", "torch.sym_int.__globals__.get"),
        ("_operator.mul", "math.__loader__.load_module"),
        ("builtins.dict", "collections.defaultdict"),
    ],
)
def test_texts_that_could_be_code_are_refused_and_never_run(old: str, new: str, archive: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    path = _altered(archive, tmp_path / "evil.pt2", _rewrite(old, new.replace("{trace}", str(trace))))
    with pytest.raises(WeightsError, match="no code of the file was run"):
        load_exported(path)
    assert not trace.exists()


def _argument(kind: str, value: object, *, name: str = "") -> Json:
    return {"name": name, "arg": {kind: value}, "kind": 2 if name else 1}


def _run_first(members: Members, target: str, inputs: list[Json]) -> None:
    """Insert a node with an unused output before all others."""
    name = _member(members, "/models/")
    program = json.loads(members[name])
    graph = program["graph_module"]["graph"]
    values = graph["tensor_values"]
    values["trace"] = next(iter(values.values()))
    node = {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": "trace"}}], "metadata": {}}
    graph["nodes"].insert(0, node | {"is_hop_single_tensor_return": True, "name": None})
    members[name] = json.dumps(program).encode()


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        (
            "torch.ops.higher_order.run_and_save_rng_state",
            [
                _argument("as_operator", "torch.ops.aten.from_file.default"),
                _argument("as_string", "was-run"),
                _argument("as_bool", True),
                _argument("as_int", 4),
                _argument("as_device", {"type": "cpu", "index": None}, name="device"),
            ],
        ),
        (
            "torch.ops.aten.relu.default",
            [_argument("as_tensor", {"name": "image"}), _argument("as_operator", "torch.ops.aten.relu.default")],
        ),
        ("torch.ops.aten.save.default", [_argument("as_tensor", {"name": "image"}), _argument("as_string", "was-run")]),
        ("_operator.call", [_argument("as_operator", "torch.os.getcwd")]),
    ],
)
def test_operators_that_call_others_or_write_files_are_refused_and_never_run(
    target: str, inputs: list[Json], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _altered(archive, tmp_path / "evil.pt2", lambda members: _run_first(members, target, inputs))
    with pytest.raises(WeightsError, match="no code of the file was run"):
        load_exported(path)(torch.zeros(1, 3, 32, 32))
    assert not (tmp_path / "was-run").exists()


def test_no_operator_of_the_dispatcher_with_a_file_or_a_path_passes() -> None:
    suspicious = re.compile(r"file|path|save(?!d|_)|load|open(?!_)|dump|url|librar", re.IGNORECASE)
    names = {f"{name}.{overload or 'default'}" for name, overload in _schemas() if suspicious.search(name)}
    names |= {
        f"{schema.name}.{schema.overload_name or 'default'}"
        for schema in torch._C._jit_get_all_schemas()
        if any(str(argument.type) == "str" and suspicious.search(argument.name) for argument in schema.arguments)
    }
    found = [f"torch.ops.{name.replace('::', '.')}" for name in names]
    assert {"torch.ops.aten.from_file.default", "torch.ops.aten.from_file.out", "torch.ops.aten.save.default"} <= set(found)
    assert [name for name in found if _is_harmless(name, key="target")] == []


def _schemas() -> list[tuple[str, str]]:
    return [(schema.name, schema.overload_name) for schema in torch._C._jit_get_all_schemas()]


@pytest.mark.parametrize(
    "context", [{"default_factory_module": "was_run", "default_factory_name": "x", "dict_context": []}, {"__enum__": True}]
)
def test_trees_that_import_modules_are_refused_and_nothing_is_imported(
    context: Json, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "was_run.py").write_text("x = dict")
    leaf: Json = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}

    def change(members: Members) -> None:
        name = _member(members, "/models/")
        program = json.loads(members[name])
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])
        members[name] = json.dumps(program).encode()

    with pytest.raises(WeightsError, match="no code of the file was run"):
        load_exported(_altered(archive, tmp_path / "evil.pt2", change))
    assert "was_run" not in sys.modules


def test_guards_that_are_code_are_left_out_and_never_run(archive: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"

    def change(members: Members) -> None:
        name = _member(members, "/models/")
        program = json.loads(members[name])
        program["guards_code"] = [f"open({str(trace)!r}, 'w')"]
        members[name] = json.dumps(program).encode()

    network = load_exported(_altered(archive, tmp_path / "guards.pt2", change))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 8, 8)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 100, 5000, -50])
def test_a_broken_archive_is_refused(keep: int, archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.pt2"
    path.write_bytes(archive[:keep])
    with pytest.raises(WeightsError, match=r"short\.pt2"):
        load_exported(path)


def test_a_program_with_two_inputs_is_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return image * mask

    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(Two(), (torch.zeros(2, 3), torch.zeros(2, 3))), path)
    with pytest.raises(WeightsError, match="takes 2 inputs"):
        load_exported(path)


def test_the_error_for_a_class_as_output_says_what_the_network_returns(archive: bytes, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        name = _member(members, "/models/")
        program = json.loads(members[name])
        leaf: Json = {"type": None, "context": None, "children_spec": []}
        tree = {"type": "transformers.modeling_outputs.ModelOutput", "context": '["heatmaps"]', "children_spec": [leaf]}
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])
        members[name] = json.dumps(program).encode()

    with pytest.raises(WeightsError, match=r"returns transformers\.modeling_outputs\.ModelOutput") as caught:
        load_exported(_altered(archive, tmp_path / "output.pt2", change))
    assert "a dict, list or tuple with one tensor" in caught.value.allowed
