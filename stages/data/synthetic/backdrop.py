"""Backdrops of the drawn images: a park, a street, a room or a gym, cluttered in muted colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.data.synthetic.people import Colour, colour, shade

__all__ = ["draw_backdrop", "light_and_grain"]

Canvas = NDArray[np.uint8]

GRAIN_SD = 2.5
LIGHT_RANGE = (0.86, 1.1)
CLUTTER_RANGE = (5, 11)

_SKIES = [("CFE8F3", "F3F7EE"), ("F8D9B8", "FBEFDD"), ("B9D7E8", "E6F0F2"), ("D8D4EA", "F4E9EC"), ("A9C4D6", "DCE6E4")]
_LAWNS = ["B7CFA0", "A5C29A", "C7D3A5", "D9CBA3"]
_PAVES = ["C9C5BC", "BDBDC1", "D6CCBC", "AEB2B5"]
_WALLS = ["E9DFD2", "D5DEDC", "E6D3CB", "D3D6E2", "DDE0CC", "C9D3C9", "EADFB8"]
_FLOORS = ["C9A987", "B99674", "D8C3A5", "A9A39B"]
_HOUSES = ["D9B8A0", "C5C9CF", "E3D2AE", "B9C4C0", "D3A99B", "A8B3C2"]
_LEAVES = ["8FB08A", "7DA27F", "A8BC84", "6F957A"]
_THINGS = ["C98C7A", "8FA6B5", "D9B97A", "9C8FA8", "7F9C93", "C7A6A0", "6E7F8D", "B8B09A"]


def _pick(rng: np.random.Generator, codes: list[str]) -> Colour:
    return colour(codes[rng.integers(len(codes))])


def _box(canvas: Canvas, x: int, y: int, w: int, h: int, fill: Colour) -> None:
    cv2.rectangle(canvas, (x, y), (x + w, y + h), fill, cv2.FILLED)


def _fade(canvas: Canvas, top: int, bottom: int, first: Colour, last: Colour) -> None:
    """Rows ``top`` to ``bottom`` go from one colour to another."""
    steps = np.linspace(0.0, 1.0, max(bottom - top, 1))[:, None]
    rows = np.rint(np.array(first) * (1 - steps) + np.array(last) * steps).astype(np.uint8)
    canvas[top:bottom] = rows[:, None]


def _tree(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, size = int(rng.integers(canvas.shape[1])), int(rng.integers(14, 34))
    leaf, y = _pick(rng, _LEAVES), horizon + int(rng.integers(0, 16))
    _box(canvas, x - 2, y - 2 * size, 4, 2 * size, (96, 120, 146))
    for dx, dy, part in ((0.0, -2.1, 1.0), (-0.6, -1.7, 0.7), (0.6, -1.6, 0.7)):
        tone = shade(leaf, 1.0 if dx <= 0 else 0.93)
        cv2.circle(canvas, (x + int(dx * size), y + int(dy * size)), int(part * size), tone, cv2.FILLED, cv2.LINE_AA)


def _cloud(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, size = int(rng.integers(canvas.shape[1])), int(rng.integers(4, max(horizon // 2, 6))), int(rng.integers(6, 14))
    for dx, part in ((-1.3, 0.7), (0.0, 1.0), (1.3, 0.75)):
        cv2.circle(canvas, (x + int(dx * size), y), int(part * size), (250, 250, 248), cv2.FILLED, cv2.LINE_AA)


def _bush(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, size = int(rng.integers(canvas.shape[1])), horizon + int(rng.integers(4, 24)), int(rng.integers(6, 14))
    leaf = _pick(rng, _LEAVES)
    for dx, part in ((-1.1, 0.7), (0.0, 1.0), (1.1, 0.8)):
        cv2.circle(canvas, (x + int(dx * size), y - size // 2), int(part * size), leaf, cv2.FILLED, cv2.LINE_AA)


def _lamp(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, tall = int(rng.integers(canvas.shape[1])), horizon + int(rng.integers(2, 26)), int(rng.integers(50, 110))
    cv2.line(canvas, (x, y), (x, y - tall), (104, 98, 92), 3, cv2.LINE_AA)
    cv2.circle(canvas, (x, y - tall), 6, (190, 232, 248), cv2.FILLED, cv2.LINE_AA)


def _fence(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, wide = int(rng.integers(canvas.shape[1])), int(rng.integers(40, 110))
    tone = shade(_pick(rng, _THINGS), 1.12)
    for step in range(0, wide, 9):
        _box(canvas, x + step, horizon - 16, 4, 26, tone)
    _box(canvas, x, horizon - 10, wide, 3, shade(tone, 0.92))


def _house(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    wide, tall = int(rng.integers(36, 80)), int(rng.integers(40, max(horizon, 60)))
    x, wall = int(rng.integers(-20, canvas.shape[1])), _pick(rng, _HOUSES)
    _box(canvas, x, horizon - tall, wide, tall, wall)
    pane = shade(wall, 0.8 if rng.random() < 0.6 else 1.12)
    for row in range(horizon - tall + 7, horizon - 12, 17):
        for column in range(x + 6, x + wide - 9, 15):
            _box(canvas, column, row, 7, 9, pane)


def _car(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, wide = int(rng.integers(canvas.shape[1])), horizon + int(rng.integers(0, 18)), int(rng.integers(40, 70))
    paint, tall = _pick(rng, _THINGS), int(wide * 0.24)
    roof = np.array([[0.16, -1], [0.3, -1.8], [0.68, -1.8], [0.86, -1]]) * (wide, tall) + (x, y)
    cv2.fillConvexPoly(canvas, np.rint(roof).astype(np.int32), shade(paint, 0.85), cv2.LINE_AA)
    cv2.rectangle(canvas, (x + wide * 2 // 5, y - tall * 8 // 5), (x + wide * 3 // 5, y - tall), (232, 226, 216), cv2.FILLED)
    _box(canvas, x, y - tall, wide, tall - 2, paint)
    for wheel in (x + wide // 5, x + wide * 4 // 5):
        cv2.circle(canvas, (wheel, y), tall // 2, (70, 66, 64), cv2.FILLED, cv2.LINE_AA)


def _painting(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y = int(rng.integers(canvas.shape[1])), int(rng.integers(4, max(horizon - 50, 5)))
    wide, tall = (int(side) for side in rng.integers(18, 46, 2))
    _box(canvas, x, y, wide, tall, (122, 140, 158))
    _box(canvas, x + 2, y + 2, wide - 4, tall - 4, shade(_pick(rng, _WALLS), 1.04))
    spot = (x + wide // 2, y + tall * 2 // 3)
    cv2.circle(canvas, spot, min(wide, tall) // 4, _pick(rng, _THINGS), cv2.FILLED, cv2.LINE_AA)


def _shelf(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, wide = int(rng.integers(canvas.shape[1])), int(rng.integers(24, max(horizon - 20, 25))), int(rng.integers(40, 84))
    at = x + 2
    while at < x + wide - 6:
        thick, tall = int(rng.integers(4, 8)), int(rng.integers(11, 20))
        _box(canvas, at, y - tall, thick - 1, tall, _pick(rng, _THINGS))
        at += thick + 1
    _box(canvas, x, y, wide, 3, (112, 138, 164))


def _plant(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, size = int(rng.integers(canvas.shape[1])), horizon + int(rng.integers(2, 20)), int(rng.integers(12, 26))
    leaf = _pick(rng, _LEAVES)
    for angle in (-62, -28, 0, 30, 64):
        tip = (x + int(size * np.sin(np.deg2rad(angle))), y - size // 2 - int(size * np.cos(np.deg2rad(angle))))
        cv2.line(canvas, (x, y - size // 2), tip, leaf, 4, cv2.LINE_AA)
    _box(canvas, x - size // 4, y - size // 2, size // 2, size // 2, (122, 146, 198))


def _sofa(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, wide = int(rng.integers(-20, canvas.shape[1])), horizon + int(rng.integers(6, 22)), int(rng.integers(56, 104))
    cloth = _pick(rng, _THINGS)
    _box(canvas, x, y - 36, wide, 30, cloth)
    _box(canvas, x - 4, y - 22, wide + 8, 20, shade(cloth, 0.9))


def _pane(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, wide, tall = int(rng.integers(canvas.shape[1])), int(rng.integers(34, 60)), int(rng.integers(40, 70))
    _box(canvas, x - 3, 14, wide + 6, tall + 6, (240, 242, 244))
    _box(canvas, x, 17, wide, tall, colour(_SKIES[rng.integers(len(_SKIES))][0]))
    _box(canvas, x + wide // 2 - 1, 17, 2, tall, (240, 242, 244))


def _ball(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y = int(rng.integers(canvas.shape[1])), int(rng.integers(horizon, canvas.shape[0]))
    cv2.circle(canvas, (x, y), int(rng.integers(5, 13)), _pick(rng, _THINGS), cv2.FILLED, cv2.LINE_AA)


def _bars(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, wide, tone = int(rng.integers(canvas.shape[1])), int(rng.integers(30, 60)), shade(_pick(rng, _THINGS), 1.1)
    for row in range(24, horizon, 12):
        cv2.line(canvas, (x, row), (x + wide, row), tone, 3, cv2.LINE_AA)
    for post in (x, x + wide):
        cv2.line(canvas, (post, 14), (post, horizon), shade(tone, 0.85), 4, cv2.LINE_AA)


def _bench(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    x, y, wide = int(rng.integers(canvas.shape[1])), horizon + int(rng.integers(8, 30)), int(rng.integers(40, 80))
    wood = shade(_pick(rng, _FLOORS), 0.9)
    for leg in (x + 4, x + wide - 7):
        _box(canvas, leg, y - 10, 3, 12, shade(wood, 0.75))
    _box(canvas, x, y - 14, wide, 5, wood)


_Item = Callable[[Canvas, np.random.Generator, int], None]
_OUTSIDE: list[_Item] = [_tree, _cloud, _bush, _lamp, _fence, _tree, _bench, _ball]
_STREET: list[_Item] = [_house, _house, _lamp, _car, _tree, _house, _bench]
_ROOM: list[_Item] = [_painting, _shelf, _plant, _sofa, _pane, _painting, _ball]
_GYM: list[_Item] = [_bars, _ball, _bench, _painting, _pane, _bars]


def _open_air(canvas: Canvas, rng: np.random.Generator, horizon: int, grounds: list[str]) -> None:
    first, last = _SKIES[rng.integers(len(_SKIES))]
    _fade(canvas, 0, horizon, colour(first), colour(last))
    ground = _pick(rng, grounds)
    _fade(canvas, horizon, canvas.shape[0], ground, shade(ground, 0.88))
    hill = (int(rng.integers(canvas.shape[1])), horizon + 30)
    cv2.ellipse(canvas, hill, (140, 64), 0, 180, 360, shade(ground, 1.06), cv2.FILLED, cv2.LINE_AA)
    _fade(canvas, horizon, canvas.shape[0], ground, shade(ground, 0.88))


def _indoors(canvas: Canvas, rng: np.random.Generator, horizon: int) -> None:
    wall, floor = _pick(rng, _WALLS), _pick(rng, _FLOORS)
    canvas[:horizon] = wall
    if rng.random() < 0.5:  # wallpaper
        step = int(rng.integers(10, 24))
        for column in range(0, canvas.shape[1], step):
            _box(canvas, column, 0, step // 3, horizon, shade(wall, 0.96))
    _fade(canvas, horizon, canvas.shape[0], floor, shade(floor, 0.9))
    for row in range(horizon + 9, canvas.shape[0], 13):
        cv2.line(canvas, (0, row), (canvas.shape[1], row), shade(floor, 0.86), 1)
    _box(canvas, 0, horizon - 4, canvas.shape[1], 4, shade(wall, 1.08))


def draw_backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the whole ``canvas`` (h, w, 3)."""
    horizon = int(canvas.shape[0] * rng.uniform(0.5, 0.72))
    scene = rng.integers(4)
    if scene < 2:
        _open_air(canvas, rng, horizon, _LAWNS if scene == 0 else _PAVES)
    else:
        _indoors(canvas, rng, horizon)
    items = (_OUTSIDE, _STREET, _ROOM, _GYM)[scene]
    for _ in range(int(rng.integers(*CLUTTER_RANGE))):
        items[rng.integers(len(items))](canvas, rng, horizon)


@lru_cache(maxsize=4)
def _grain(height: int, width: int) -> NDArray[np.int16]:
    """One sheet of film grain (2 height, 2 width, 3); images use a part of it, since drawing grain for each image is slow."""
    rng = np.random.Generator(np.random.Philox(key=0))
    return np.rint(rng.normal(0.0, GRAIN_SD, (2 * height, 2 * width, 3))).astype(np.int16)


def light_and_grain(canvas: Canvas, rng: np.random.Generator) -> Canvas:
    """The image with changed brightness and colour temperature, and with film grain."""
    gains_3 = rng.uniform(*LIGHT_RANGE) * rng.uniform(0.96, 1.04, 3)
    curves_256x1x3 = np.clip(np.rint(np.arange(256)[:, None] * gains_3), 0, 255).astype(np.uint8)[:, None]
    lit = cv2.LUT(canvas, curves_256x1x3)
    height, width = canvas.shape[:2]
    top, left = int(rng.integers(height)), int(rng.integers(width))
    grain = _grain(height, width)[top : top + height, left : left + width]
    return np.asarray(cv2.add(lit, np.ascontiguousarray(grain), dtype=cv2.CV_8U), np.uint8)
