"""Drawing poses, bits and masks over a crop.

Shape letters: K joints, H W heatmap cells, h w image pixels. Images are RGB uint8. Points are (x, y) in pixels of the crop;
pixel centres have whole numbers. The centre of a heatmap cell is at four times its index (HRNet has no half-pixel term).
"""

from __future__ import annotations

import base64
import colorsys
import math
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from stages.pose.affine import STRIDE
from stages.pose.skeleton import Skeleton

__all__ = ["data_uri", "draw_bits", "draw_errors", "draw_mask", "draw_pose", "enlarge", "joint_colours", "tile_height"]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_SHIFT = 4  # cv2 draws at sixteenths of a pixel
_JPEG_QUALITY = 82
_TALLEST, _SMALLEST = 256, 96
_BUDGET_PIXELS = 100 * 256 * 192
"""Pixels of all tiles together: about 2 MB as JPEG, so that the page fits in an email."""
_MASK_COLOUR = np.array([255, 190, 60], np.float32)


@lru_cache(maxsize=4)
def joint_colours(skeleton: Skeleton) -> U8:
    """RGB [K, 3]: warm colours on the left side of the body, cold ones on the right, white in the middle."""
    colours = []
    for index, name in enumerate(skeleton.keypoints):
        position = index / max(skeleton.num_keypoints - 1, 1)
        hue = 0.95 + 0.20 * position if name.startswith("left") else 0.62 - 0.25 * position
        sided = name.startswith(("left", "right"))
        colours.append(colorsys.hsv_to_rgb(hue % 1.0, 0.75, 1.0) if sided else (1.0, 1.0, 1.0))
    return np.round(np.array(colours) * 255).astype(np.uint8)


def tile_height(num_tiles: int, *, size_wh: tuple[int, int]) -> int:
    """The height in pixels at which ``num_tiles`` images with the aspect of ``size_wh`` stay within the page's budget."""
    height = math.sqrt(_BUDGET_PIXELS / max(num_tiles, 1) * size_wh[1] / size_wh[0])
    return int(min(_TALLEST, max(_SMALLEST, height)))


def enlarge(crop_hw3: U8, *, height: int) -> tuple[U8, float]:
    """The crop resized to ``height`` pixels, and the factor of the resize."""
    factor = height / crop_hw3.shape[0]
    size = (round(crop_hw3.shape[1] * factor), height)
    how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(crop_hw3, size, interpolation=how), np.uint8), factor


def draw_pose(
    image_hw3: U8, keypoints_K2: F32, *, skeleton: Skeleton, factor: float, shown_K: Flags, solid_K: Flags | None = None
) -> U8:
    """Draw the shown joints and the limbs between them; joints that are not ``solid`` (hidden ones) are rings."""
    drawn = image_hw3.copy()
    points, colours_K3 = _points(keypoints_K2, factor), joint_colours(skeleton)
    radius = max(2.0, image_hw3.shape[0] / 75)
    for first, second in skeleton.limbs:
        if shown_K[first] and shown_K[second]:
            colour = _mean_colour(colours_K3[[first, second]])
            _line(drawn, points[first], points[second], (0, 0, 0), thickness=4)
            _line(drawn, points[first], points[second], colour, thickness=2)
    for joint in np.flatnonzero(shown_K):
        filled = solid_K is None or bool(solid_K[joint])
        _dot(drawn, points[joint], colours_K3[joint], radius=radius, filled=filled)
    return drawn


def draw_errors(image_hw3: U8, keypoints_K2: F32, truth_K2: F32, *, factor: float, labelled_K: Flags) -> U8:
    """Draw a white line from each predicted joint to a white dot at its labelled position."""
    drawn = image_hw3.copy()
    found, truth = _points(keypoints_K2, factor), _points(truth_K2, factor)
    for joint in np.flatnonzero(labelled_K):
        _line(drawn, found[joint], truth[joint], (0, 0, 0), thickness=3)
        _line(drawn, found[joint], truth[joint], (255, 255, 255), thickness=1)
        _dot(drawn, truth[joint], np.array([255, 255, 255], np.uint8), radius=2.0, filled=True)
    return drawn


def draw_bits(image_hw3: U8, bits_KHW: Flags, *, skeleton: Skeleton, factor: float) -> U8:
    """Draw the bits of each joint in its colour over a darkened image; where joints overlap, the mean of their colours."""
    height, width = image_hw3.shape[:2]
    count_HW = bits_KHW.sum(axis=0)
    colour_HW3 = np.einsum("khw,kc->hwc", bits_KHW.astype(np.float32), joint_colours(skeleton).astype(np.float32))
    colour_HW3 /= np.maximum(count_HW, 1)[..., None]
    cells_HW4 = np.concatenate([colour_HW3, (count_HW > 0)[..., None]], axis=-1).astype(np.float32)
    row_h, column_w = _cells_under(height, factor, len(count_HW)), _cells_under(width, factor, count_HW.shape[1])
    spread = cells_HW4[row_h[:, None], column_w]
    opacity = 0.8 * spread[..., 3:]
    return _uint8(_darkened(image_hw3) * (1 - opacity) + spread[..., :3] * opacity)


def _cells_under(num_pixels: int, factor: float, num_cells: int) -> npt.NDArray[np.int64]:
    """The index of the heatmap cell under each pixel along one side of the resized image."""
    crop = (np.arange(num_pixels) + 0.5) / factor - 0.5
    return np.clip(np.floor(crop / STRIDE + 0.5), 0, num_cells - 1).astype(np.int64)


def draw_mask(image_hw3: U8, mask_hw: U8) -> U8:
    """Draw the inside of a mask [h, w] of the crop's size light and outlined, and everything else dark."""
    height, width = image_hw3.shape[:2]
    mask = cv2.resize(mask_hw, (width, height), interpolation=cv2.INTER_NEAREST)
    inside = mask[..., None].astype(np.float32)
    drawn = _uint8(image_hw3 * inside * 0.75 + _MASK_COLOUR * inside * 0.25 + _darkened(image_hw3) * (1 - inside))
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, _MASK_COLOUR.tolist(), 1)
    return drawn


def data_uri(image_hw3: U8) -> str:
    """The image as a data URI of a JPEG, so that the page needs no other file."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image_hw3, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _points(keypoints_K2: F32, factor: float) -> npt.NDArray[np.float64]:
    """Points of the crop as points of the resized image; cv2.resize aligns the edges of pixels, not their centres."""
    moved: npt.NDArray[np.float64] = (keypoints_K2.astype(np.float64) + 0.5) * factor - 0.5
    return moved


def _fixed(point: npt.NDArray[np.float64]) -> tuple[int, int]:
    # cv2's integers overflow far outside the image.
    x, y = np.clip(np.round(point * (1 << _SHIFT)), -(1 << 20), 1 << 20).astype(int)
    return int(x), int(y)


def _line(
    image: U8, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], colour: tuple[int, ...], *, thickness: int
) -> None:
    cv2.line(image, _fixed(start), _fixed(end), colour, thickness, cv2.LINE_AA, _SHIFT)


def _dot(image: U8, point: npt.NDArray[np.float64], colour: U8, *, radius: float, filled: bool) -> None:
    center, size = _fixed(point), round(radius * (1 << _SHIFT))
    cv2.circle(image, center, size + (1 << _SHIFT), (0, 0, 0), cv2.FILLED, cv2.LINE_AA, _SHIFT)
    cv2.circle(image, center, size, colour.tolist(), cv2.FILLED, cv2.LINE_AA, _SHIFT)
    if not filled:
        cv2.circle(image, center, size // 2, (0, 0, 0), cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _mean_colour(colours_23: U8) -> tuple[int, ...]:
    return tuple(int(value) for value in colours_23.astype(int).mean(axis=0))


def _darkened(image_hw3: U8) -> F32:
    """A darker grey image, on which colours stand out."""
    grey = cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    dark: F32 = np.repeat(grey * 0.5, 3, axis=2)
    return dark


def _uint8(image: npt.NDArray[np.floating]) -> U8:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
