"""Teachers by spec: accepted files, refused files, and a pretrained network in two formats."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from stages.networks.exported import ExportedNetwork
from stages.networks.hrnet import HRNet, hrnet_small
from stages.networks.load import check_network, is_trainable, load_network
from stages.networks.mask_adapter import SeniorNetwork
from stages.networks.onnx_network import OnnxNetwork
from stages.networks.spec import NetworkSpec
from storage_schemas.errors import WeightsError
from storage_schemas.formats.checkpoints import save_weights
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.shared_data import shared_data

SMALL_WH = (32, 64)
_load = partial(load_network, size_wh=SMALL_WH, num_keypoints=17)
TINYPOSE_WH = (192, 256)


def _exported(network: nn.Module, path: LocalPath, *, any_batch: bool = True) -> LocalPath:
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if any_batch else None
    image = torch.zeros(2, 3, SMALL_WH[1], SMALL_WH[0])
    torch.export.save(torch.export.export(network.eval(), (image,), dynamic_shapes=shapes), path)
    return path


class _Convolution(nn.Module):
    """The smallest network from images to heatmaps of 1/``stride`` of their size."""

    def __init__(self, joints: int = 17, stride: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, joints, stride, stride=stride)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.conv(image)
        return heat


def test_a_name_without_weights_is_a_network_with_initial_weights_from_the_generator() -> None:
    spec = NetworkSpec(network="hrnet_w8_small")
    first, again = (_load(spec, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert isinstance(first, HRNet)
    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_published_weights_and_then_a_checkpoint_of_the_senior_load(tmp_path: LocalPath) -> None:
    published = HRNet(hrnet_small(8), num_keypoints=17)
    torch.save(published.state_dict(), tmp_path / "w8.pth")
    spec = NetworkSpec(network="hrnet_w8_small", weights=tmp_path / "w8.pth", senior=True)
    senior = _load(spec)
    assert isinstance(senior, SeniorNetwork)
    assert torch.equal(senior.primary.conv1.weight, published.conv1.weight)  # type: ignore[arg-type, union-attr]
    with torch.no_grad():
        senior.adapter.last.weight.fill_(0.5)
    save_weights(tmp_path / "senior.safetensors", senior, {"network": "hrnet_w8_small"})
    tuned = load_network(
        NetworkSpec(network="hrnet_w8_small", senior=True, checkpoint=tmp_path / "senior.safetensors"),
        size_wh=SMALL_WH,
        num_keypoints=17,
    )
    assert all(torch.equal(value, senior.state_dict()[name]) for name, value in tuned.state_dict().items())


def test_a_fine_tuned_program_is_its_file_with_the_weights_of_a_checkpoint(tmp_path: LocalPath) -> None:
    program = _exported(_Convolution(), tmp_path / "teacher.pt2")
    network = _load(NetworkSpec(weights=program))
    assert isinstance(network, ExportedNetwork)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    save_weights(tmp_path / "tuned.safetensors", network, {})
    image = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    tuned = _load(NetworkSpec(weights=program, checkpoint=tmp_path / "tuned.safetensors"))
    plain = _load(NetworkSpec(weights=program))
    with torch.no_grad():
        assert torch.equal(tuned(image), network(image))
        assert not torch.equal(tuned(image), plain(image))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: LocalPath) -> None:
    save_weights(tmp_path / "w16.safetensors", HRNet(hrnet_small(16), num_keypoints=17), {})
    spec = NetworkSpec(network="hrnet_w8_small", checkpoint=tmp_path / "w16.safetensors")
    with pytest.raises(WeightsError, match=r"loaded \d+ of \d+ tensors"):
        _load(spec)


def test_a_program_for_another_size_is_refused_with_both_sizes(tmp_path: LocalPath) -> None:
    spec = NetworkSpec(weights=_exported(_Convolution(), tmp_path / "teacher.pt2"))
    with pytest.raises(WeightsError, match=r"takes inputs of Bx3x64x32") as caught:
        load_network(spec, size_wh=(96, 128), num_keypoints=17)
    assert "Bx3x128x96" in caught.value.allowed


def test_the_error_for_a_program_of_one_batch_size_says_how_to_export_it(tmp_path: LocalPath) -> None:
    spec = NetworkSpec(weights=_exported(_Convolution(), tmp_path / "teacher.pt2", any_batch=False))
    with pytest.raises(WeightsError, match="takes batches of exactly 2") as caught:
        _load(spec)
    assert "dynamic_shapes" in caught.value.allowed


@pytest.mark.parametrize("network", [_Convolution(joints=14), _Convolution(stride=8)])
def test_a_program_with_other_heatmaps_is_refused_with_both_shapes(network: nn.Module, tmp_path: LocalPath) -> None:
    spec = NetworkSpec(weights=_exported(network, tmp_path / "teacher.pt2"))
    with pytest.raises(WeightsError, match=r"gives \(2, \d+, \d+, \d+\)") as caught:
        _load(spec)
    assert "(2, 17, 16, 8)" in caught.value.allowed


class _Changed(_Convolution):
    """A convolution whose heatmaps are changed."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.change(super().forward(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda heat: heat > 0, "gives heatmaps of bool for 2x3x64x32 images"),
        (lambda heat: (heat * 100).long(), "gives heatmaps of int64 for 2x3x64x32 images"),
        (lambda heat: torch.complex(heat, heat), "gives heatmaps of complex64 for 2x3x64x32 images"),
        (lambda heat: heat * torch.nan, "gives heatmaps with NaN or infinity for 2x3x64x32 images of noise"),
        (lambda heat: heat / (heat > 0), "gives heatmaps with NaN or infinity for 2x3x64x32 images of noise"),
    ],
)
def test_a_program_with_heatmaps_of_other_numbers_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: LocalPath
) -> None:
    spec = NetworkSpec(weights=_exported(_Changed(change), tmp_path / "teacher.pt2"))
    with pytest.raises(WeightsError, match=message):
        _load(spec)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_program_with_heatmaps_of_any_floating_point_type_loads(kind: torch.dtype, tmp_path: LocalPath) -> None:
    network = _load(NetworkSpec(weights=_exported(_Changed(lambda heat: heat.to(kind)), tmp_path / "teacher.pt2")))
    assert network(torch.zeros(2, 3, 64, 32)).dtype == kind


def test_a_network_that_fails_or_gives_no_tensor_is_refused() -> None:
    with pytest.raises(WeightsError, match="fails on an input of 2x3x64x32"):
        check_network(nn.Conv2d(4, 17, 4, stride=4), size_wh=SMALL_WH, num_keypoints=17, source="odd")

    class Pair(_Convolution):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            return self.conv(image), image

    with pytest.raises(WeightsError, match="gives tuple"):
        check_network(Pair(), size_wh=SMALL_WH, num_keypoints=17, source="odd")


def test_weights_without_a_network_and_missing_files_are_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "w.pth").touch()
    with pytest.raises(WeightsError, match="not a whole network"):
        _load(NetworkSpec(weights=tmp_path / "w.pth"))
    for name in ("none.pt2", "none.onnx"):
        with pytest.raises(WeightsError, match="no network at"):
            _load(NetworkSpec(weights=tmp_path / name))


def test_without_onnxruntime_the_error_says_what_to_install(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "teacher.onnx").touch()
    with pytest.raises(WeightsError) as caught:
        _load(NetworkSpec(weights=tmp_path / "teacher.onnx"))
    assert suggested(caught.value) == "pip install onnxruntime"


def _onnx_file(tmp_path: LocalPath) -> LocalPath:
    """A file that onnxruntime never opens in these tests."""
    path = tmp_path / "teacher.onnx"
    path.touch()
    return path


def test_an_onnx_teacher_without_cuda_is_refused_if_the_device_is_cuda(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(WeightsError, match="device cuda: onnxruntime offers CPUExecutionProvider") as caught:
        _load(NetworkSpec(weights=_onnx_file(tmp_path)), device="cuda")
    assert suggested(caught.value) == "pip install onnxruntime-gpu, or --set cluster.device=cpu"


class _Session:
    """If onnxruntime cannot load CUDA, the session runs on the CPU, and only its log reports that."""

    asked: ClassVar[list[object]] = []
    given: ClassVar[list[str]] = []

    def __init__(self, _path: str, _options: object, *, providers: list[object]) -> None:
        _Session.asked = providers

    def get_providers(self) -> list[str]:
        return _Session.given

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image", shape=["batch", 3, 64, 32])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="heatmaps")]


def test_an_onnx_teacher_that_falls_back_to_the_processor_is_refused_and_cuda_is_used_without_tf32(
    tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(_Session, "given", both[1:])
    with pytest.raises(WeightsError, match="device cuda: onnxruntime offers CPUExecutionProvider"):
        OnnxNetwork(_onnx_file(tmp_path), device="cuda")
    monkeypatch.setattr(_Session, "given", both)
    OnnxNetwork(_onnx_file(tmp_path), device="cuda")
    assert _Session.asked == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    OnnxNetwork(_onnx_file(tmp_path))
    assert _Session.asked == ["CPUExecutionProvider"]


@pytest.mark.parametrize("data", [b"", b"not a network at all"])
def test_a_broken_onnx_file_is_refused(data: bytes, tmp_path: LocalPath) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "broken.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read as ONNX"):
        _load(NetworkSpec(weights=tmp_path / "broken.onnx"))


def test_a_pretrained_teacher_gives_the_same_as_onnx_and_as_program_and_can_be_trained() -> None:
    pytest.importorskip("onnxruntime")
    folder = shared_data("teacher")
    program = load_network(NetworkSpec(weights=folder / "tinypose_256x192.pt2"), size_wh=TINYPOSE_WH, num_keypoints=17)
    onnx = load_network(
        NetworkSpec(weights=folder / "tinypose_256x192.onnx"), size_wh=TINYPOSE_WH, num_keypoints=17, onnx_threads=1
    )
    image = torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(0))
    before = program(image)
    torch.testing.assert_close(before.detach(), onnx(image), rtol=0, atol=1e-5)
    assert isinstance(onnx, OnnxNetwork)
    assert is_trainable(program)
    assert not is_trainable(onnx)
    optimizer = torch.optim.SGD(program.parameters(), lr=0.1)
    before.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert (program(image) - before).abs().max() > 1e-4


def test_an_onnx_network_cannot_become_a_senior() -> None:
    pytest.importorskip("onnxruntime")
    spec = NetworkSpec(weights=shared_data("teacher") / "tinypose_256x192.onnx", senior=True)
    with pytest.raises(WeightsError, match="cannot be trained"):
        load_network(spec, size_wh=TINYPOSE_WH, num_keypoints=17)
