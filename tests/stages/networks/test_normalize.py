"""Normalisation compared with the arithmetic of HRNet's code."""

from __future__ import annotations

import pytest
import torch

from stages.networks.normalize import normalize


def test_black_white_and_grey_are_normalised_to_known_numbers() -> None:
    image = torch.zeros(1, 3, 1, 3, dtype=torch.uint8)
    image[..., 1] = 255
    image[0, :, 0, 2] = torch.tensor([124, 116, 104])
    got = normalize(image)[0, :, 0].double()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = torch.stack([-mean / std, (1 - mean) / std, (torch.tensor([124, 116, 104]) / 255 - mean) / std], dim=1)
    torch.testing.assert_close(got, expected.double(), atol=1e-6, rtol=0)


def test_the_input_and_its_memory_format_stay_unchanged() -> None:
    image = torch.full((2, 3, 4, 5), 7, dtype=torch.uint8).to(memory_format=torch.channels_last)
    out = normalize(image)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert bool((image == 7).all())


def test_floats_fail_an_assertion() -> None:
    with pytest.raises(AssertionError, match="uint8"):
        normalize(torch.zeros(1, 3, 2, 2))
