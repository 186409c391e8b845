"""One drawn image: people placed so that they overlap, painted in order of depth, with the label of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.data.synthetic.backdrop import draw_backdrop, light_and_grain
from stages.data.synthetic.people import (
    SHIFT,
    Colour,
    Layer,
    Look,
    Part,
    Shape,
    capsules,
    clothe_alike,
    person_layers,
    sample_look,
    shade,
)
from stages.data.synthetic.pose import Figure, sample_figure

__all__ = ["Person", "Scene", "draw_scene"]

Floats = NDArray[np.float64]
Canvas = NDArray[np.uint8]

# The difficulties of the images; the test of the data set checks the resulting statistics.
PEOPLE_SHARES = (0.26, 0.52, 0.16, 0.06)  # images with 1, 2, 3, 4 people
NEIGHBOUR_SHARE = 0.61  # of the people after the first: placed to overlap another
NEIGHBOUR_SHIFT = (0.38, 0.57)  # of the mean width of the two
ALIKE_SHARE = 0.6  # of the neighbours: in the clothes of the other
STATURE_RANGE_PX = (80.0, 172.0)  # at an image height of 192 px, and in proportion for others
THING_SHARE = 0.14  # images with a thing in front of people
CROWD_SHARE = 0.08

OBJECT, CROWD = 255, 254  # labels; a person's are 8 * number + part
_THINGS = ((150, 132, 108), (140, 120, 160), (96, 128, 178), (168, 160, 150))
_HEDGES = ((104, 146, 112), (92, 132, 96), (112, 158, 138), (120, 142, 98))

# A joint is visible if one of its own parts is on top.
_OWN_PARTS = (
    *[(Part.HEAD,)] * 5,
    (Part.TORSO, Part.LEFT_ARM), (Part.TORSO, Part.RIGHT_ARM),
    *[(Part.LEFT_ARM,), (Part.RIGHT_ARM,)] * 2,
    (Part.TORSO, Part.LEFT_LEG), (Part.TORSO, Part.RIGHT_LEG),
    *[(Part.LEFT_LEG,), (Part.RIGHT_LEG,)] * 2,
)  # fmt: skip
# It must also not be on the far side: limits in stature units behind the middle of the torso (of the head for the face).
_FAR_SIDE = {0: 0.0, 1: 0.01, 2: 0.01, 3: -0.07, 4: -0.07, 5: -0.10, 6: -0.10, 11: -0.06, 12: -0.06}


@dataclass(frozen=True)
class Person:
    """The truth of one person: joints (K, 2) as integer (x, y), whether each is visible, and the visible mask (h, w)."""

    joints: NDArray[np.int64]
    seen: NDArray[np.bool_]
    mask_hw: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """An image (h, w, 3) in BGR with its people, and the mask of a distant crowd, if any."""

    image_hw3: Canvas
    people: list[Person]
    crowd_hw: NDArray[np.bool_] | None


@dataclass
class _Placed:
    figure: Figure
    look: Look
    stature_px: float
    origin_xy: Floats
    box: Floats  # x0, y0, x1, y1


def _extent(figure: Figure) -> Floats:
    """The figure's box (x0, y0, x1, y1) around its pelvis in stature units, flesh included."""
    points_N2 = np.concatenate([figure.joints, figure.hands_23, figure.toes_23])[:, :2]
    head = figure.head_3[:2]
    low = np.minimum(points_N2.min(axis=0) - 0.03, head - figure.head_radius)
    high = np.maximum(points_N2.max(axis=0) + 0.03, head + figure.head_radius)
    return np.concatenate([low, high])


def _clash(box: Floats, others: list[_Placed]) -> float:
    """The largest overlap with another box, as a share of the smaller of the two."""
    worst = 0.0
    for other in others:
        common = np.minimum(box[2:], other.box[2:]) - np.maximum(box[:2], other.box[:2])
        if common.min() > 0:
            sizes = [float(np.prod(b[2:] - b[:2])) for b in (box, other.box)]
            worst = max(worst, float(common.prod()) / min(sizes))
    return worst


def _place(rng: np.random.Generator, placed: list[_Placed], size_wh: tuple[int, int]) -> _Placed:
    """Place one more person: overlapping an earlier one, or at the candidate position with least overlap."""
    width, height = size_wh
    figure, look = sample_figure(rng), sample_look(rng)
    low, high = np.log(STATURE_RANGE_PX)
    stature = float(np.exp(rng.uniform(low, high))) * height / 192
    neighbour = placed[rng.integers(len(placed))] if placed and rng.random() < NEIGHBOUR_SHARE else None
    if neighbour is not None:
        stature = neighbour.stature_px * float(rng.uniform(0.85, 1.15))
        if rng.random() < ALIKE_SHARE:
            look = clothe_alike(look, neighbour.look)
    extent = _extent(figure) * stature
    half = (extent[2:] - extent[:2]) / 2
    if neighbour is not None:
        other = neighbour.box
        shift = rng.uniform(*NEIGHBOUR_SHIFT) * (half[0] + (other[2] - other[0]) / 2) * rng.choice((-1.0, 1.0))
        centres = [np.array([(other[0] + other[2]) / 2 + shift, other[3] - half[1] + rng.normal(0.0, 0.05) * stature])]
    else:
        # Feet are lower in the image for people who are larger, that is nearer.
        foot = height * (0.66 + 0.32 * (stature / height)) + rng.normal(0.0, 0.03) * height
        centres = [np.array([rng.uniform(half[0] * 0.8, width - half[0] * 0.8), foot - half[1]]) for _ in range(4)]
    boxes = [np.concatenate([centre - half, centre + half]) for centre in centres]
    box = min(boxes, key=lambda candidate: _clash(candidate, placed))
    return _Placed(figure, look, stature, box[:2] - extent[:2], box)


def _paint_layer(canvas: Canvas, label_hw: Canvas, layer: Layer, label: int, rim_px: int) -> None:
    """Paint a dark rim, then the shapes: parts of one colour stay separate, and pieces of one part merge."""
    for shape in layer.shapes:
        cv2.polylines(canvas, [shape.corners], True, shade(shape.fill, 0.62), rim_px, cv2.LINE_AA, SHIFT)
    for shape in (*layer.shapes, *layer.details):
        cv2.fillConvexPoly(canvas, shape.corners, shape.fill, cv2.LINE_AA, SHIFT)
        cv2.fillConvexPoly(label_hw, shape.corners, label, cv2.LINE_8, SHIFT)


def _paint_seat(canvas: Canvas, label_hw: Canvas, person: _Placed) -> None:
    """A block to sit on, from under the hips to the feet."""
    hips = person.figure.joints[11:13, :2].mean(axis=0) * person.stature_px + person.origin_xy
    wide, top = 0.13 * person.stature_px, int(hips[1] + 0.04 * person.stature_px)
    corner, far = (int(hips[0] - wide), top), (int(hips[0] + wide), int(person.box[3]))
    if far[1] > top:
        cv2.rectangle(canvas, corner, far, shade(person.look.trim, 0.8), cv2.FILLED)
        cv2.rectangle(canvas, corner, (far[0], top + 3), shade(person.look.trim, 0.95), cv2.FILLED)
        cv2.rectangle(label_hw, corner, far, OBJECT, cv2.FILLED)


def _paint_thing(canvas: Canvas, label_hw: Canvas, rng: np.random.Generator, people: list[_Placed]) -> None:
    """A hedge, a crate or a post in front of a person."""
    person = people[rng.integers(len(people))]
    x0, y0, x1, y1 = person.box
    kind, x = ("hedge", "crate", "post")[rng.integers(3)], rng.uniform(x0, x1)
    tall, half = (y1 - y0) * rng.uniform(0.2, 0.42), (x1 - x0) * rng.uniform(0.25, 0.5)
    base: Colour = (_HEDGES if kind == "hedge" else _THINGS)[rng.integers(4)]
    if kind == "crate":
        low, high = (int(x - half), int(y1 - tall)), (int(x + half), int(y1 + 4))
        for target, tone in ((canvas, base), (label_hw, OBJECT)):
            cv2.rectangle(target, low, high, tone, cv2.FILLED)
        for row in range(low[1] + 6, high[1], 8):
            cv2.line(canvas, (low[0], row), (high[0], row), shade(base, 0.88), 1)
        cv2.rectangle(canvas, low, (high[0], low[1] + 4), shade(base, 1.15), cv2.FILLED)
        return
    if kind == "post":
        ends, radii = np.array([[[x, y1 - 2.2 * tall]], [[x, y1 + 6]]]), np.array([float(rng.uniform(3.0, 5.0))])
    else:
        tops_N = np.linspace(x - half, x + half, max(3, int(2.4 * half / tall) + 1))
        ends = np.stack([np.stack([tops_N, np.full(len(tops_N), y1 - row * tall)], axis=1) for row in (0.62, 0.2)])
        radii = tall * rng.uniform(0.36, 0.46, len(tops_N))
    shapes = [Shape(bar, base) for bar in capsules(ends[0], radii, ends[1], radii)]
    _paint_layer(canvas, label_hw, Layer(Part.HEAD, 0.0, shapes, []), OBJECT, 1)


def _paint_crowd(canvas: Canvas, label_hw: Canvas, rng: np.random.Generator) -> None:
    """Rows of small people far away, cut off by a barrier."""
    height, width = label_hw.shape
    foot, start = int(height * rng.uniform(0.45, 0.62)), int(rng.integers(0, width // 2))
    end = min(width, start + int(rng.integers(width // 3, width * 2 // 3)))
    for row in (12, 0):
        for x in range(start, end, 11):
            look, at = sample_look(rng), (x + rng.uniform(-2, 2), foot - row + rng.uniform(-3, 3))
            tops, ends = np.add([(0, -14), (0, -23.5)], at), np.add([(0, 4), (0, -22)], at)
            body, head = capsules(tops, np.array([5.0, 4.2]), ends, np.array([6.0, 4.0]))
            layer = Layer(Part.HEAD, 0.0, [Shape(body, shade(look.top, 0.94)), Shape(head, look.skin)], [])
            _paint_layer(canvas, label_hw, layer, CROWD, 1)
    for target, tone in ((canvas, (188, 182, 176)), (label_hw, 0)):
        cv2.rectangle(target, (start - 8, foot), (end + 2, foot + 12), tone, cv2.FILLED)


def _truth(person: _Placed, number: int, label_hw: Canvas) -> Person:
    """Joints and visible pixels of the person with this number."""
    height, width = label_hw.shape
    joints_K2 = np.rint(person.figure.joints[:, :2] * person.stature_px + person.origin_xy).astype(np.int64)
    inside_K = np.all((joints_K2 >= 0) & (joints_K2 < (width, height)), axis=1)
    x_K, y_K = np.where(inside_K[:, None], joints_K2, 0).T
    top_K = label_hw[y_K, x_K].astype(np.int64) - 8 * number
    depth_K = person.figure.joints[:, 2]
    behind_K = depth_K - depth_K[[5, 6, 11, 12]].mean()
    behind_K[:5] = depth_K[:5] - person.figure.head_3[2]
    seen_K = np.array([top in parts for top, parts in zip(top_K, _OWN_PARTS, strict=True)]) & inside_K
    for joint, limit in _FAR_SIDE.items():
        limb_on_top = joint >= 5 and top_K[joint] == _OWN_PARTS[joint][1]
        seen_K[joint] &= bool(behind_K[joint] > limit) or limb_on_top
    return Person(joints_K2, seen_K, (label_hw >> 3) == number)


def draw_scene(rng: np.random.Generator, size_wh: tuple[int, int]) -> Scene:
    """Draw an image of ``size_wh`` (W, H) px; ``rng`` determines everything in it."""
    width, height = size_wh
    canvas, label_hw = np.empty((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    draw_backdrop(canvas, rng)
    has_crowd = rng.random() < CROWD_SHARE
    if has_crowd:
        _paint_crowd(canvas, label_hw, rng)
    people: list[_Placed] = []
    for _ in range(1 + int(rng.choice(len(PEOPLE_SHARES), p=PEOPLE_SHARES))):
        people.append(_place(rng, people, size_wh))
    people.sort(key=lambda person: float(person.box[3]))  # whose feet are lower is nearer
    for number, person in enumerate(people, start=1):
        if person.figure.seated:
            _paint_seat(canvas, label_hw, person)
        rim_px = 2 if person.stature_px > 120 else 1
        for layer in person_layers(person.figure, person.look, origin_xy=person.origin_xy, stature_px=person.stature_px):
            _paint_layer(canvas, label_hw, layer, 8 * number + layer.part, rim_px)
    if rng.random() < THING_SHARE:
        _paint_thing(canvas, label_hw, rng, people)
    truths = [_truth(person, number, label_hw) for number, person in enumerate(people, start=1)]
    return Scene(light_and_grain(canvas, rng), truths, label_hw == CROWD if has_crowd else None)
