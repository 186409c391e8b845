"""Poses of a drawn person: joint angles drawn at random, turned into joints as the camera sees them.

Body coordinates are (left, down, front) of the person, camera coordinates (right, down, toward the viewer), both in units
of the stature with the origin at the pelvis. Everything is mirror-symmetric: which limb is the left one follows from where
the person faces and which side is near, never from a colour, so an image flipped together with its labels is a possible one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.pose.skeleton import COCO_17

__all__ = ["HEAD_RADIUS", "Figure", "sample_figure"]

Floats = NDArray[np.float64]

# Shares of the directions people face; the yaw is drawn evenly within the limits in degrees, 0 facing the viewer.
FACINGS = {"front": (0.65, 0.0, 35.0), "three_quarter": (0.18, 35.0, 65.0), "profile": (0.07, 65.0, 105.0),
           "back": (0.10, 140.0, 180.0)}  # fmt: skip
TILT_SD_DEG = 6.0
TUMBLING_SHARE = 0.04
TUMBLING_MAX_DEG = 70.0
ANGLE_SD_DEG = 8.0

# Lengths in units of the stature. Heads are larger and limbs shorter than life: a face must be legible on a person of 60 px,
# and OKS forgives in proportion to the area of the mask, which thin long limbs would make small.
HEAD_RADIUS = 0.118
_HIP_HALF, _SHOULDER_HALF = 0.074, 0.128
_TORSO, _NECK, _FOOT, _HAND = 0.265, 0.016, 0.085, 0.044
_SEGMENTS = np.array([[0.142, 0.128], [0.142, 0.128], [0.192, 0.182], [0.192, 0.182]])  # upper and lower: arms, then legs
_SIDES = np.array([1.0, -1.0, 1.0, -1.0])  # left is +1: left arm, right arm, left leg, right leg

# On the head, in units of its radius, as (left, down, front): nose, eyes, ears.
_FACE_53 = np.array([[0.0, 0.16, 0.98], [0.40, -0.10, 0.90], [-0.40, -0.10, 0.90], [1.0, 0.02, 0.0], [-1.0, 0.02, 0.0]])

# Degrees: forward flexion, abduction, twist about the limb (outward positive), bend of the elbow.
ARMS = {
    "hang": (2, 9, 0, 14), "carry": (12, 12, -10, 80), "hip": (-12, 48, -85, 92), "wave": (5, 95, 80, 75),
    "up": (5, 158, 20, 18), "side": (5, 85, 15, 14), "point": (80, 12, 0, 10), "phone": (32, 12, -30, 112),
    "crossed": (32, 16, -72, 92), "swing_front": (38, 8, -8, 60), "swing_back": (-34, 12, 0, 40), "chin": (48, 14, -25, 132),
    "flex": (0, 80, 85, 118),
}  # fmt: skip


@dataclass(frozen=True)
class Posture:
    """A way to hold the body: its share, the forward lean, two legs as (flexion, abduction, knee), and arms to choose from."""

    share: float
    lean_deg: float
    legs_deg: tuple[tuple[float, float, float], tuple[float, float, float]]
    arms: tuple[str, ...]
    seated: bool = False


_CALM = ("hang", "hang", "carry", "hip", "wave", "point", "phone", "crossed", "chin", "up", "side")
_BRISK = ("swing_front", "swing_back", "carry", "wave")
_WILD = ("up", "up", "side", "wave", "flex", "point", "swing_back")
POSTURES = {
    "stand": Posture(0.26, 0, ((2, 5, 3), (0, 5, 3)), _CALM),
    "contrapposto": Posture(0.08, 0, ((18, 10, 32), (-2, 4, 2)), _CALM),
    "walk": Posture(0.15, 4, ((26, 3, 6), (-20, 3, 26)), _BRISK),
    "run": Posture(0.09, 13, ((62, 4, 78), (-28, 4, 62)), ("swing_front", "swing_back")),
    "sit": Posture(0.12, 4, ((80, 10, 84), (80, 10, 84)), ("carry", "hang", "phone", "chin", "wave", "crossed"), seated=True),
    "star": Posture(0.08, 0, ((4, 32, 8), (4, 32, 8)), _WILD),
    "jump": Posture(0.08, 5, ((48, 14, 92), (20, 10, 84)), _WILD),
    "squat": Posture(0.06, 24, ((88, 22, 112), (88, 22, 112)), ("point", "carry", "up", "side")),
    "kick": Posture(0.05, -8, ((72, 12, 16), (-6, 5, 12)), _WILD),
    "dance": Posture(0.03, 0, ((10, 52, 60), (0, 4, 6)), _WILD),
}


@dataclass(frozen=True)
class Figure:
    """One posed body in camera coordinates and stature units.

    ``joints`` are (K, 3); the rows of ``head_axes_33`` are the head's left, down and front; the chest faces ``front_3``.
    """

    joints: Floats
    hands_23: Floats
    toes_23: Floats
    neck_3: Floats
    head_3: Floats
    head_radius: float
    head_axes_33: Floats
    front_3: Floats
    seated: bool


def _about_x(angle_N: Floats) -> Floats:
    """Rotations (N, 3, 3) that take down toward the front."""
    out, cos, sin = np.zeros((len(angle_N), 3, 3)), np.cos(angle_N), np.sin(angle_N)
    out[:, 0, 0], out[:, 1, 1], out[:, 1, 2], out[:, 2, 1], out[:, 2, 2] = 1.0, cos, -sin, sin, cos
    return out


def _about_y(angle_N: Floats) -> Floats:
    """Rotations (N, 3, 3) that take the front toward the left."""
    out, cos, sin = np.zeros((len(angle_N), 3, 3)), np.cos(angle_N), np.sin(angle_N)
    out[:, 1, 1], out[:, 0, 0], out[:, 0, 2], out[:, 2, 0], out[:, 2, 2] = 1.0, cos, sin, -sin, cos
    return out


def _about_z(angle_N: Floats) -> Floats:
    """Rotations (N, 3, 3) that take down toward the left."""
    out, cos, sin = np.zeros((len(angle_N), 3, 3)), np.cos(angle_N), np.sin(angle_N)
    out[:, 2, 2], out[:, 0, 0], out[:, 0, 1], out[:, 1, 0], out[:, 1, 1] = 1.0, cos, sin, -sin, cos
    return out


def _limb_angles(rng: np.random.Generator, posture: Posture) -> Floats:
    """Degrees (4, 4) of flexion, abduction, twist and bend: left arm, right arm, left leg, right leg."""
    first = posture.arms[rng.integers(len(posture.arms))]
    second = first if rng.random() < 0.4 else posture.arms[rng.integers(len(posture.arms))]
    arms = [ARMS[first], ARMS[second]]
    legs = [(flex, abduct, 0.0, -knee) for flex, abduct, knee in posture.legs_deg]
    if rng.random() < 0.5:
        arms.reverse()
        legs.reverse()
    angles_44 = np.array(arms + legs, dtype=np.float64)
    angles_44 += rng.normal(0.0, 1.0, (4, 4)) * np.array([1.0, 0.7, 1.2, 1.0]) * ANGLE_SD_DEG
    return angles_44


def _camera(rng: np.random.Generator) -> Floats:
    """The rotation (3, 3) from body to camera: facing, a slight look from above or below, a tilt in the image."""
    shares = np.array([share for share, _, _ in FACINGS.values()])
    _, low, high = list(FACINGS.values())[rng.choice(len(shares), p=shares / shares.sum())]
    yaw = rng.uniform(low, high) * rng.choice((-1.0, 1.0))
    tumbles = rng.random() < TUMBLING_SHARE
    tilt = rng.uniform(-TUMBLING_MAX_DEG, TUMBLING_MAX_DEG) if tumbles else rng.normal(0.0, TILT_SD_DEG)
    yaw, pitch, tilt = np.deg2rad((yaw, rng.normal(4.0, 5.0), tilt))
    camera: Floats = _about_z(np.array([tilt]))[0] @ _about_x(np.array([pitch]))[0] @ _about_y(np.array([yaw]))[0]
    return camera


def _torso(rng: np.random.Generator, posture: Posture) -> tuple[Floats, Floats]:
    """The rotations (3, 3) of the torso, and of the head within body coordinates."""
    lean, bend, turn = np.deg2rad(rng.normal((-posture.lean_deg, 0.0, 0.0), (6.0, 6.0, 8.0)))[:, None]
    torso_33 = _about_z(bend)[0] @ _about_x(lean)[0] @ _about_y(turn)[0]
    yaw, pitch, roll = np.deg2rad(rng.normal((0.0, posture.lean_deg * 0.6, 0.0), (18.0, 8.0, 7.0)))[:, None]
    return torso_33, torso_33 @ _about_y(yaw)[0] @ _about_x(pitch)[0] @ _about_z(roll)[0]


def _limbs(angles_44: Floats, torso_33: Floats, starts_43: Floats, scale_42: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Middles (4, 3), ends (4, 3), lower segments' directions (4, 3) and fronts (4, 3) of the limbs, in body coordinates."""
    flex, abduct, twist, bend = np.deg2rad(angles_44).T
    upper_433 = _about_z(abduct * _SIDES) @ _about_x(flex) @ _about_y(twist * _SIDES)
    upper_433[:2] = torso_33 @ upper_433[:2]  # arms hang on the torso, legs on the pelvis
    lower_433 = upper_433 @ _about_x(bend)
    middles_43 = starts_43 + upper_433[:, :, 1] * scale_42[:, :1]
    ends_43 = middles_43 + lower_433[:, :, 1] * scale_42[:, 1:]
    return middles_43, ends_43, lower_433[:, :, 1], lower_433[:, :, 2]


def sample_figure(rng: np.random.Generator) -> Figure:
    """Draw a posture, its angles, proportions and the direction of view."""
    shares = np.array([posture.share for posture in POSTURES.values()])
    posture = list(POSTURES.values())[rng.choice(len(shares), p=shares / shares.sum())]
    torso_33, head_33 = _torso(rng, posture)
    limbs, torso, head, width = rng.uniform((0.93, 0.94, 0.92, 0.9), (1.07, 1.06, 1.15, 1.12))
    radius = HEAD_RADIUS * head
    neck = torso_33 @ np.array([0.0, -_TORSO * torso, 0.0])
    shoulders_23 = neck + np.array([[1.0, 0.20, 0], [-1.0, 0.20, 0]]) * _SHOULDER_HALF * width @ torso_33.T
    hips_23 = np.array([[1.0, 0, 0], [-1.0, 0, 0]]) * _HIP_HALF * width
    starts_43 = np.concatenate([shoulders_23, hips_23])
    middles_43, ends_43, down_43, front_43 = _limbs(_limb_angles(rng, posture), torso_33, starts_43, _SEGMENTS * limbs)
    centre = neck + torso_33 @ np.array([0.0, -_NECK - radius * 0.92, 0.0])
    face_53 = centre + radius * _FACE_53 @ head_33.T
    pairs = (shoulders_23, middles_43[:2], ends_43[:2], hips_23, middles_43[2:], ends_43[2:])
    hands_23 = ends_43[:2] + _HAND * down_43[:2]
    toes_23 = ends_43[2:] + _FOOT * front_43[2:] + 0.018 * down_43[2:]
    points_N3 = np.concatenate([face_53, *pairs, hands_23, toes_23, neck[None], centre[None]])
    camera_33 = _camera(rng)
    points_N3 = points_N3 @ camera_33.T
    joints_K3, hands_23, toes_23, middle_23 = np.split(points_N3, np.cumsum([COCO_17.num_keypoints, 2, 2]))
    return Figure(joints_K3, hands_23, toes_23, middle_23[0], middle_23[1], radius,
                  (camera_33 @ head_33).T, camera_33 @ torso_33[:, 2], posture.seated)  # fmt: skip
