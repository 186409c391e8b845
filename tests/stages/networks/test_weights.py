"""Weights files of every layout load the same; hostile, broken and foreign ones are refused with the reason."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.networks.hrnet import HRNet, hrnet_small
from stages.networks.weights import fit_weights, load_state_dict_file
from storage_schemas.errors import WeightsError
from tests.support.errors import suggested

State = dict[str, Tensor]


def _small() -> HRNet:
    return HRNet(hrnet_small(8), num_keypoints=17)


@pytest.fixture
def state() -> State:
    return _small().state_dict()


def _mmpose(state: State, head: str) -> State:
    return {
        (f"{head}.{name}" if name.startswith("final_layer") else f"backbone.{name}"): value for name, value in state.items()
    }


def _numbered(state: State) -> State:
    named = _mmpose(state, "keypoint_head")
    return {name.replace("final_layer.", "final_layer.0."): value for name, value in named.items()}


LAYOUTS: dict[str, Callable[[State], object]] = {
    "HRNet final_state.pth": lambda state: state,
    "HRNet checkpoint.pth": lambda state: {"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}, "perf": 0.7},
    "a dict with model": lambda state: {"model": state},
    "mmpose 1.x": lambda state: {"meta": {"epoch": 210}, "state_dict": _mmpose(state, "head")},
    "mmpose 0.x": lambda state: {"meta": {"time": "now"}, "state_dict": _mmpose(state, "keypoint_head")},
    "mmpose 0.x, numbered": lambda state: {"state_dict": _numbered(state)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_loads_equal(layout: str, state: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](state), tmp_path / "weights.pth")
    network = _small()
    fit_weights(network, load_state_dict_file(tmp_path / "weights.pth"), source="weights.pth")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_safetensors_load_equal(state: State, tmp_path: Path) -> None:
    save_file(_mmpose(state, "head"), tmp_path / "weights.safetensors")
    network = _small()
    fit_weights(network, load_state_dict_file(tmp_path / "weights.safetensors"), source="weights")
    assert torch.equal(network.conv1.weight, state["conv1.weight"])


def test_half_precision_widens_and_batch_counters_may_lack(state: State, tmp_path: Path) -> None:
    old = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    network = _small()
    fit_weights(network, old, source="old.pth")
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.conv1.weight, state["conv1.weight"].half().float())


class _Evil:
    """A pickle that leaves a trace when it is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_an_evil_checkpoint_is_named_and_never_run(zipped: bool, state: State, tmp_path: Path) -> None:
    trace, file = tmp_path / "was-run", tmp_path / "evil.pth"
    torch.save({"state_dict": state, "hook": _Evil(trace)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as caught:
        load_state_dict_file(file)
    assert not trace.exists()
    assert "needs 'io.open' to be read" in str(caught.value)
    assert "no code of the file was run" in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_evil_pickle_is_never_run(protocol: int, tmp_path: Path) -> None:
    trace, file = tmp_path / "was-run", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(_Evil(trace), protocol=protocol))
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        load_state_dict_file(file)
    assert not trace.exists()


def test_the_error_for_a_training_checkpoint_of_mmengine_says_how_to_convert_it(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.logging.history_buffer")
    history = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = history  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"state_dict": state, "message_hub": {"loss": history()}}, tmp_path / "epoch_210.pth")
    with pytest.raises(WeightsError) as caught:
        load_state_dict_file(tmp_path / "epoch_210.pth")
    assert "mmengine.logging.history_buffer.HistoryBuffer" in caught.value.seen
    assert "torch.save({'state_dict': c['state_dict']}" in suggested(caught.value)
    assert str(tmp_path / "epoch_210.pth") in suggested(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_truncated_file_is_refused(suffix: str, keep: int, state: State, tmp_path: Path) -> None:
    file = tmp_path / f"short{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="short"):
        load_state_dict_file(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list without tensors"),
        ({}, "holds dict without tensors"),
        ({"conv1.weight": torch.zeros(1), "epoch": 3}, "holds int under 'epoch'"),
        ({"conv1.weight": torch.zeros(1), "module.conv1.weight": torch.zeros(1)}, "holds 'conv1.weight' twice"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=message):
        load_state_dict_file(tmp_path / "odd.pt")


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        load_state_dict_file(tmp_path / "none.pth")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(WeightsError, match=r"ends in '\.h5'"):
        load_state_dict_file(tmp_path / "weights.h5")


def test_another_width_says_how_many_tensors_fit_and_which_do_not(state: State) -> None:
    network = HRNet(hrnet_small(16), num_keypoints=17)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        fit_weights(network, state, source="w8.pth")
    fitting = sum(value.shape == before[name].shape for name, value in state.items())
    assert 0 < fitting < len(state)
    assert f"loaded {fitting} of {len(state)} tensors" in str(caught.value)
    assert "shape differs: transition1.0.0.weight [8, 256, 3, 3] for [16, 256, 3, 3]" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_missing_and_left_over_tensors_are_named(state: State) -> None:
    del state["stage2.0.branches.0.0.conv1.weight"]
    state["surplus.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"missing: stage2\.0\.branches\.0\.0\.conv1\.weight; unexpected: surplus\.weight"):
        fit_weights(_small(), state, source="odd.pth")


def test_a_head_with_more_layers_is_refused(state: State, tmp_path: Path) -> None:
    named = _numbered(state) | {"keypoint_head.final_layer.3.weight": torch.zeros(17, 8, 1, 1)}
    torch.save({"state_dict": named}, tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match=r"missing: final_layer\.weight.*unexpected: final_layer\.0\.weight"):
        fit_weights(_small(), load_state_dict_file(tmp_path / "deep.pth"), source="deep.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float, state: State) -> None:
    state["layer1.0.conv1.weight"] = torch.full_like(state["layer1.0.conv1.weight"], bad)
    with pytest.raises(WeightsError, match=r"NaN or infinity in: layer1\.0\.conv1\.weight"):
        fit_weights(_small(), state, source="nan.pth")


def test_integers_are_refused_as_weights(state: State) -> None:
    state["conv1.weight"] = state["conv1.weight"].int()
    with pytest.raises(WeightsError, match=r"conv1\.weight torch\.int32 for torch\.float32"):
        fit_weights(_small(), state, source="int.pth")


def test_a_classification_backbone_is_refused_with_the_count_of_what_fits(state: State) -> None:
    network = _small()
    before = network.conv1.weight.clone()
    classifier = {name: value for name, value in state.items() if not name.startswith("final_layer")}
    classifier |= {"incre_modules.0.0.conv1.weight": torch.zeros(3), "classifier.weight": torch.zeros(3)}
    with pytest.raises(WeightsError) as caught:
        fit_weights(network, classifier, source="imagenet.pth")
    assert f"loaded {len(state) - 2} of {len(state)} tensors" in caught.value.seen
    assert "missing: final_layer.weight, final_layer.bias" in caught.value.seen
    assert "unexpected: incre_modules.0.0.conv1.weight, classifier.weight" in caught.value.seen
    assert torch.equal(network.conv1.weight, before)
