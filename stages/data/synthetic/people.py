"""The look of a drawn person: clothes, hair and face as flat shapes in layers, painted from back to front."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.data.synthetic.pose import Figure

__all__ = [
    "SHIFT",
    "Layer",
    "Look",
    "Part",
    "Shape",
    "capsules",
    "clothe_alike",
    "colour",
    "person_layers",
    "sample_look",
    "shade",
]

Floats = NDArray[np.float64]
Colour = tuple[int, int, int]  # blue, green, red

# Shapes have corners in 1/16 px: coordinates that differ in their last bit between machines round to the same corner.
SHIFT = 4
_ARC = np.linspace(-1.0, 1.0, 8)
_CIRCLE = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)
# On the head in units of its radius, as (left, down, front): eyes, nose, and the corners of a smile.
_FEATURES_73 = np.array([[0.40, -0.10, 0.90], [-0.40, -0.10, 0.90], [0.0, 0.16, 1.0], [0.30, 0.46, 0.83], [0.15, 0.63, 0.76],
                         [-0.15, 0.63, 0.76], [-0.30, 0.46, 0.83]])  # fmt: skip
_CIRCLE_XY = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)


class Part(IntEnum):
    """Body parts; a joint is visible if its own part is on top."""

    HEAD = 1
    TORSO = 2
    LEFT_ARM = 3
    RIGHT_ARM = 4
    LEFT_LEG = 5
    RIGHT_LEG = 6


@dataclass(frozen=True)
class Shape:
    """A filled convex polygon: corners (N, 2) int32 as (x, y) in 1/16 px."""

    corners: NDArray[np.int32]
    fill: Colour


@dataclass(frozen=True)
class Layer:
    """Shapes of one part; ``height`` orders the layers of a person, and is larger nearer to the viewer."""

    part: Part
    height: float
    shapes: list[Shape]
    details: list[Shape]


@dataclass(frozen=True)
class Look:
    """Colours and cut of one person's clothes."""

    skin: Colour
    hair: Colour
    top: Colour
    trim: Colour
    bottom: Colour
    shoes: Colour
    long_sleeves: bool
    legwear: Literal["trousers", "shorts", "skirt"]
    pattern: Literal["plain", "stripes", "buttons", "bib"]
    hairdo: Literal["short", "long", "bun", "cap"]
    girth: float


def colour(code: str) -> Colour:
    """Blue, green and red of a six-digit RGB code."""
    return int(code[4:6], 16), int(code[2:4], 16), int(code[:2], 16)


def shade(base: Colour, factor: float) -> Colour:
    """A darker or lighter ``base``."""
    return min(int(base[0] * factor), 255), min(int(base[1] * factor), 255), min(int(base[2] * factor), 255)


def _colours(codes: str) -> list[Colour]:
    return [colour(code) for code in codes.split()]


SKINS = _colours("FFDCC2 F6C9A0 E8AE7C C98A58 9A6238 6E4429 F2BFA0 B5774A")
HAIRS = _colours("2B2024 4A3028 7A4A2B B9773A E3BE7E 8E8C94 1F2233 A8452F")
TOPS = _colours(
    "E4572E F3A712 3D5A98 59A5C8 8DBB6A F4EDE0 C5485A C98F5A EE9C86 A9C25D E9C46A F2A65A 457B9D D86C8E F7F7F5 5BB3A9"
)
BOTTOMS = _colours("2F3E5C 444A57 B79A6B 56739C 6B6F4B 6E3B4B 39393F 8A7C9C 3F6B66 C9B79C")
# All people wear the same cuffs, pads and socks, so that a small network learns the joints in a few minutes. Both sides are the
# same: only the facing distinguishes left from right.
CUFF, SOCK, NOSE = colour("F9BE2E"), colour("FBFBF4"), colour("E2604E")
ELBOW_PAD, KNEE_PAD, EAR = colour("1FA3A3"), colour("7A4FC0"), colour("F08E80")
SHOES = _colours("F5F2EC 2E2A2F C8503C 3E6FA8 7A5236 E8B83A")


def sample_look(rng: np.random.Generator) -> Look:
    """Draw the clothes of one person."""
    top, trim = rng.permutation(len(TOPS))[:2]
    skin, hair, bottom, shoes = (choices[rng.integers(len(choices))] for choices in (SKINS, HAIRS, BOTTOMS, SHOES))
    return Look(
        skin=skin, hair=hair, top=TOPS[top], trim=TOPS[trim], bottom=bottom, shoes=shoes,
        long_sleeves=bool(rng.random() < 0.4),
        legwear=("trousers", "shorts", "skirt")[rng.choice(3, p=(0.5, 0.32, 0.18))],
        pattern=("plain", "stripes", "buttons", "bib")[rng.choice(4, p=(0.3, 0.25, 0.25, 0.2))],
        hairdo=("short", "long", "bun", "cap")[rng.choice(4, p=(0.42, 0.28, 0.14, 0.16))],
        girth=float(rng.uniform(0.95, 1.2)),
    )  # fmt: skip


def clothe_alike(look: Look, model: Look) -> Look:
    """``look`` in the clothes of ``model``, like members of a team."""
    return replace(model, skin=look.skin, hair=look.hair, hairdo=look.hairdo, girth=look.girth)


def _fixed(values: NDArray[Any]) -> NDArray[np.int32]:
    """Whole numbers."""
    whole: NDArray[np.int32] = np.rint(values).astype(np.int32)
    return whole


def capsules(start_N2: Floats, start_r_N: Floats, end_N2: Floats, end_r_N: Floats) -> NDArray[np.int32]:
    """Round-ended tapered bars as convex polygons (N, 16, 2) in 1/16 px; points and radii in px."""
    axis_N2 = end_N2 - start_N2
    length_N = np.maximum(np.hypot(axis_N2[:, 0], axis_N2[:, 1]), 1e-6)
    axis_N2 = axis_N2 / length_N[:, None]
    # The straight sides touch both circles, so the ends cover less or more than half a turn.
    lean_N = np.arcsin(np.clip((start_r_N - end_r_N) / length_N, -1.0, 1.0))
    heading_N1 = np.arctan2(axis_N2[:, 1], axis_N2[:, 0])[:, None]
    end_NA = heading_N1 + _ARC * (np.pi / 2 - lean_N)[:, None]
    start_NA = heading_N1 + np.pi + _ARC * (np.pi / 2 + lean_N)[:, None]
    corners_NA2 = np.concatenate(
        [
            end_N2[:, None] + end_r_N[:, None, None] * np.stack([np.cos(end_NA), np.sin(end_NA)], axis=2),
            start_N2[:, None] + start_r_N[:, None, None] * np.stack([np.cos(start_NA), np.sin(start_NA)], axis=2),
        ],
        axis=1,
    )
    return _fixed(corners_NA2 * (1 << SHIFT))


def _hull(points_N2: Floats) -> NDArray[np.int32]:
    """The convex hull of points in px, as corners in 1/16 px."""
    return _fixed(cv2.convexHull(_fixed(points_N2 * (1 << SHIFT)))[:, 0])


def _round(centres_N2: Floats, radius: float) -> Floats:
    """Points (20 N, 2) of equal circles around centres."""
    return (centres_N2[:, None] + radius * _CIRCLE_XY).reshape(-1, 2)


class _Tailor:
    """Builds the layers of one person from its figure in px; ``z`` is the depth relative to the torso in stature units."""

    def __init__(self, figure: Figure, look: Look, origin_xy: Floats, stature_px: float) -> None:
        self.figure, self.look, self.px = figure, look, stature_px
        middle = figure.joints[[5, 6, 11, 12], 2].mean()
        self.xy = figure.joints[:, :2] * stature_px + origin_xy
        self.z = figure.joints[:, 2] - middle
        self.hands, self.toes = figure.hands_23[:, :2] * stature_px + origin_xy, figure.toes_23[:, :2] * stature_px + origin_xy
        self.neck, self.head = figure.neck_3[:2] * stature_px + origin_xy, figure.head_3[:2] * stature_px + origin_xy
        self.head_z = float(figure.head_3[2] - middle)

    def _tone(self, base: Colour, height: float) -> Colour:
        """Far limbs are darker: with the facing this distinguishes left from right, also in a mirrored image."""
        return shade(base, float(np.clip(1.0 + 1.3 * height, 0.66, 1.06)))

    def _bars(self, bars: list[tuple[Floats, float, Floats, float]]) -> NDArray[np.int32]:
        """Bars of (start px, radius, end px, radius), the radii in stature units and widened by the girth."""
        start, start_r, end, end_r = zip(*bars, strict=True)
        scale = self.px * self.look.girth
        return capsules(np.array(start), np.array(start_r) * scale, np.array(end), np.array(end_r) * scale)

    def _band(self, start: Floats, end: Floats, half: float) -> tuple[Floats, float, Floats, float]:
        """A bar across the end of a limb: a cuff."""
        along = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
        across = np.array([-along[1], along[0]]) * (half - 0.014) * self.px * self.look.girth
        return end - across, 0.016, end + across, 0.016

    def arm(self, side: int) -> Layer:
        """Sleeve, forearm and hand; side 0 is the left."""
        shoulder, elbow, wrist, look = self.xy[5 + side], self.xy[7 + side], self.xy[9 + side], self.look
        height = float(self.z[[7 + side, 9 + side]].mean()) + 0.05
        skin, top = self._tone(look.skin, height - 0.05), self._tone(look.top, height - 0.05)
        cuff = shoulder + (elbow - shoulder) * 0.72
        upper, lower, sleeve, hand, patch, band = self._bars([
            (shoulder, 0.042, elbow, 0.036), (elbow, 0.036, wrist, 0.029), (shoulder, 0.048, cuff, 0.043),
            (wrist, 0.028, self.hands[side], 0.035), (elbow, 0.027, elbow, 0.027), self._band(elbow, wrist, 0.031),
        ])  # fmt: skip
        cloth = top if look.long_sleeves else skin
        pieces = [Shape(hand, skin), Shape(upper, cloth), Shape(lower, cloth), Shape(sleeve, top)]
        if self.z[9 + side] > self.z[7 + side] + 0.05:  # the forearm comes toward the viewer
            pieces = [pieces[1], pieces[3], pieces[2], pieces[0]]
        details = [Shape(patch, self._tone(ELBOW_PAD, height - 0.05)), Shape(band, self._tone(CUFF, height - 0.05))]
        return Layer(Part(Part.LEFT_ARM + side), height, pieces, details)

    def leg(self, side: int) -> Layer:
        """Trouser leg or bare shin, and shoe; side 0 is the left."""
        hip, knee, ankle, look = self.xy[11 + side], self.xy[13 + side], self.xy[15 + side], self.look
        height = float(self.z[[11 + side, 13 + side, 15 + side]].mean())
        skin, fabric, shoe = (self._tone(base, height) for base in (look.skin, look.bottom, look.shoes))
        hem = hip + (knee - hip) * 0.8
        thigh, shin, shorts, foot, patch, band = self._bars([
            (hip, 0.060, knee, 0.047), (knee, 0.046, ankle, 0.034), (hip, 0.065, hem, 0.057),
            (ankle + (ankle - knee) * 0.1, 0.036, self.toes[side], 0.030), (knee, 0.034, knee, 0.034),
            self._band(knee, ankle, 0.037),
        ])  # fmt: skip
        cloth = fabric if look.legwear == "trousers" else skin
        short = [Shape(shorts, fabric)] if look.legwear == "shorts" else []
        shapes = [Shape(foot, shoe), Shape(thigh, cloth), Shape(shin, cloth), *short]
        if self.z[15 + side] > self.z[13 + side] + 0.03:  # the foot comes toward the viewer
            shapes = [*shapes[1:], shapes[0]]
        details = [Shape(patch, self._tone(KNEE_PAD, height)), Shape(band, self._tone(SOCK, height))]
        return Layer(Part(Part.LEFT_LEG + side), height - 0.08, shapes, details)

    def skirt(self) -> Layer:
        """From the waist to above the knees."""
        hips, knees, reach = self.xy[11:13], self.xy[13:15], self.px * self.look.girth
        hems = hips + (knees - hips) * 0.58
        points = np.concatenate([_round(hips, 0.062 * reach), _round(hems, 0.06 * reach)])
        height = float(self.z[13:15].mean())
        return Layer(Part.TORSO, max(height - 0.02, -0.012), [Shape(_hull(points), self._tone(self.look.bottom, height))], [])

    def torso(self) -> Layer:
        """Seat and shirt, with details that distinguish the front from the back."""
        look, reach = self.look, self.px * self.look.girth
        shoulders, hips = self.xy[5:7], self.xy[11:13]
        seat = _hull(_round(hips, 0.064 * reach))
        waist = hips + (shoulders - hips) * 0.16
        points = [_round(shoulders, 0.047 * reach), _round(waist, 0.062 * reach), _round(self.neck[None], 0.034 * reach)]
        chest = self.neck + (waist.mean(axis=0) - self.neck) * 0.4
        points.append(_round(chest[None], 0.074 * reach))
        neck = self._bars([(self.neck, 0.034, (self.neck + self.head) / 2, 0.032)])[0]
        shapes = [Shape(neck, shade(look.skin, 0.86)), Shape(seat, look.bottom), Shape(_hull(np.concatenate(points)), look.top)]
        return Layer(Part.TORSO, 0.0, shapes, self._shirt_details(waist.mean(axis=0), chest))

    def _shirt_details(self, waist: Floats, chest: Floats) -> list[Shape]:
        """Stripes are on both sides; neckline, buttons and bib are on the front only."""
        look, front, reach = self.look, self.figure.front_3, self.px * self.look.girth
        ahead = front[:2] * 0.055 * reach
        if look.pattern == "stripes":
            across = (self.xy[5] - self.xy[6]) * 0.36
            spots = [self.neck + (waist - self.neck) * part for part in (0.38, 0.62, 0.86)]
            wide = 0.5 + 0.5 * abs(front[0])  # seen from the side the stripes still span the chest
            spread = across + np.array([0.028 * reach * wide, 0.0]) * (1.0 if across[0] >= 0 else -1.0)
            bars = [(spot - spread, 0.014, spot + spread, 0.014) for spot in spots]
        else:
            bars = []
        details = [Shape(bar, look.trim) for bar in self._bars(bars)] if bars else []
        if front[2] < 0.15:
            return details
        if look.pattern == "buttons":
            line = self._bars([(self.neck + ahead, 0.008, waist + ahead, 0.008)])[0]
            details.append(Shape(line, shade(look.trim, 0.9)))
        if look.pattern == "bib":
            details.append(Shape(_hull(_round(np.stack([chest, (chest + waist) / 2]) + ahead * 0.6, 0.045 * reach)), look.trim))
        collar = np.array([[-0.036, 0.0], [0.036, 0.0], [0.0, 0.05]]) * reach * np.array([max(front[2], 0.4), 1.0])
        turn = (waist - self.neck) / max(float(np.hypot(*(waist - self.neck))), 1e-6)
        collar = collar[:, :1] * np.array([turn[1], -turn[0]]) + collar[:, 1:] * turn
        return [*details, Shape(_hull(self.neck + ahead * 0.5 + collar), shade(look.skin, 0.93))]

    def _on_head(self, points_N3: Floats) -> Floats:
        """Points on the head (left, down, front; in its radius) as (x, y) px and the depth in its radius."""
        turned = points_N3 @ self.figure.head_axes_33
        turned[:, :2] = turned[:, :2] * self.figure.head_radius * self.px + self.head
        return turned

    def hair_fall(self) -> Layer:
        """Long hair behind the neck: over the shoulders from behind, under them from the front."""
        back = self._on_head(np.array([[0.0, 0.1, -0.35], [0.0, 1.35, -0.5]]))[:, :2]
        radius = self.figure.head_radius / self.look.girth
        bar = self._bars([(back[0], radius * 1.0, back[1], radius * 0.72)])[0]
        behind = -0.09 if self.figure.head_axes_33[2, 2] > -0.2 else 0.055
        return Layer(Part.HEAD, behind + min(self.head_z, 0.0), [Shape(bar, shade(self.look.hair, 0.88))], [])

    def head_layer(self) -> Layer:
        """Hair, face and ears; eyes, nose and mouth if the face is turned to the viewer."""
        look, radius = self.look, self.figure.head_radius * self.px
        cover = look.trim if look.hairdo == "cap" else look.hair
        shapes = []
        if look.hairdo == "bun":
            shapes.append(Shape(_hull(_round(self._on_head(np.array([[0.0, -0.95, -0.5]]))[:, :2], radius * 0.42)), look.hair))
        shapes.append(Shape(_hull(_round(self.head[None], radius * 1.05)), cover))
        details = self._face(radius)
        ears = self._on_head(np.array([[1.0, 0.02, 0.0], [-1.0, 0.02, 0.0]]))
        for ear in ears[ears[:, 2] > -0.6, :2]:
            lobe, inner = (_hull(_round(ear[None], radius * part)) for part in (0.25, 0.14))
            details.extend((Shape(lobe, shade(look.skin, 0.9)), Shape(inner, EAR)))
        if look.hairdo == "cap":
            brim = self._on_head(np.array([[0.45, -0.42, 0.9], [-0.45, -0.42, 0.9], [0.0, -0.38, 1.42]]))
            if brim[2, 2] > -0.5:
                details.append(Shape(_hull(_round(brim[:, :2], radius * 0.13)), shade(cover, 0.8)))
        return Layer(Part.HEAD, self.head_z + 0.06, shapes, details)

    def _face(self, radius: float) -> list[Shape]:
        """The visible part of the face, a cap of the head's sphere below the hairline, and its features."""
        look, opening = self.look, np.deg2rad(66.0)
        ring = np.stack([np.sin(opening) * _CIRCLE_XY[:, 0], np.sin(opening) * _CIRCLE_XY[:, 1],
                         np.full(len(_CIRCLE), np.cos(opening))], axis=1)  # fmt: skip
        tip = np.deg2rad(20.0)  # the hairline is high, the chin is free
        ring = ring @ np.array([[1, 0, 0], [0, np.cos(tip), -np.sin(tip)], [0, np.sin(tip), np.cos(tip)]])
        axes = self.figure.head_axes_33
        turned = ring @ axes
        rim = np.concatenate([_CIRCLE_XY, np.zeros((len(_CIRCLE), 1))], axis=1)
        centre = np.array([0.0, np.sin(tip), np.cos(tip)]) @ axes
        outline = np.concatenate([turned[turned[:, 2] > 0], rim[rim @ centre > np.cos(opening)]])[:, :2]
        if len(outline) < 3:
            return []
        details = [Shape(_hull(outline * radius * 1.02 + self.head), look.skin)]
        points = self._on_head(_FEATURES_73)
        for spot in points[:2][points[:2, 2] > 0.12, :2]:
            white, pupil = (_hull(_round(spot[None], max(radius * part, 0.8))) for part in (0.21, 0.14))
            details.extend((Shape(white, (250, 252, 252)), Shape(pupil, (44, 32, 34))))
        if points[2, 2] > 0.0:
            details.append(Shape(_hull(_round(points[2:3, :2], max(radius * 0.13, 0.8))), NOSE))
        if points[3:, 2].max() > 0.25:
            details.append(Shape(_hull(points[3:, :2]), (72, 66, 160)))
        return details


def person_layers(figure: Figure, look: Look, *, origin_xy: Floats, stature_px: float) -> list[Layer]:
    """The person's layers from the farthest to the nearest; ``origin_xy`` is where the pelvis lies in the image, in px."""
    tailor = _Tailor(figure, look, origin_xy, stature_px)
    layers = [tailor.arm(0), tailor.arm(1), tailor.leg(0), tailor.leg(1), tailor.torso(), tailor.head_layer()]
    if look.legwear == "skirt":
        layers.append(tailor.skirt())
    if look.hairdo == "long":
        layers.append(tailor.hair_fall())
    return sorted(layers, key=lambda layer: layer.height)
