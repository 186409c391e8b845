from __future__ import annotations

import base64

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from stages.pose.skeleton import COCO_17
from stages.report.page.overlays import (
    data_uri,
    draw_bits,
    draw_errors,
    draw_mask,
    draw_pose,
    enlarge,
    joint_colours,
    tile_height,
)

COLOURS = joint_colours(COCO_17)

LEFT_WRIST, RIGHT_ANKLE = 9, 16
U8 = npt.NDArray[np.uint8]


def grey(height: int = 128, width: int = 96) -> U8:
    return np.full((height, width, 3), 100, np.uint8)


def only(*joints: int) -> npt.NDArray[np.bool_]:
    shown = np.zeros(17, bool)
    shown[list(joints)] = True
    return shown


def at(xy: tuple[float, float]) -> npt.NDArray[np.float32]:
    return np.tile(np.array(xy, np.float32), (17, 1))


def test_a_dot_of_the_joints_colour_is_where_the_joint_is() -> None:
    drawn = draw_pose(grey(), at((30, 40)), skeleton=COCO_17, factor=1.0, shown_K=only(LEFT_WRIST))
    assert drawn[40, 30].tolist() == COLOURS[LEFT_WRIST].tolist()
    changed = np.argwhere((drawn != 100).any(axis=-1))
    assert np.abs(changed - [40, 30]).max() <= 4
    np.testing.assert_allclose(changed.mean(axis=0), [40, 30], atol=0.1)


def test_an_enlarged_image_has_the_dot_on_the_same_spot_of_the_crop() -> None:
    crop = grey()
    crop[40, 30] = (0, 255, 0)
    image, factor = enlarge(crop, height=512)
    assert (factor, image.shape) == (4.0, (512, 384, 3))
    # Pixel 30 of the crop covers 120 to 123, whose middle is 121.5.
    drawn = draw_pose(grey(512, 384), at((30, 40)), skeleton=COCO_17, factor=factor, shown_K=only(RIGHT_ANKLE))
    marked = np.argwhere((drawn != 100).any(axis=-1))
    np.testing.assert_allclose(marked.mean(axis=0), [161.5, 121.5], atol=0.1)
    spot = image[..., 1].astype(float) - image[..., 0]
    centre = (np.argwhere(np.ones_like(spot)) * spot.reshape(-1, 1)).sum(axis=0) / spot.sum()
    np.testing.assert_allclose(centre, [161.5, 121.5], atol=0.1)


def test_a_hidden_joint_is_a_ring() -> None:
    drawn = draw_pose(grey(), at((30, 40)), skeleton=COCO_17, factor=1.0, shown_K=only(LEFT_WRIST), solid_K=only())
    assert drawn[40, 30].tolist() == [0, 0, 0]


def test_a_limb_is_drawn_only_between_joints_that_are_shown() -> None:
    pose = at((0, 0))
    pose[7], pose[9] = (20, 20), (20, 100)
    assert (draw_pose(grey(), pose, skeleton=COCO_17, factor=1.0, shown_K=only(7, 9))[60, 20] != 100).any()
    assert (draw_pose(grey(), pose, skeleton=COCO_17, factor=1.0, shown_K=only(9))[60, 20] == 100).all()


def test_joints_far_outside_do_no_harm() -> None:
    drawn = draw_pose(grey(), at((1e9, -1e9)), skeleton=COCO_17, factor=3.0, shown_K=only(7, 9))
    assert drawn.shape == (128, 96, 3)


def test_left_is_warm_and_right_is_cold() -> None:
    red, _, blue = COLOURS.astype(int).T
    assert (red[1::2] > blue[1::2]).all()
    assert (blue[2::2] > red[2::2]).all()
    assert len(np.unique(COLOURS, axis=0)) == 17


def test_bits_cover_the_pixels_around_their_cells_centre() -> None:
    bits = np.zeros((17, 32, 24), bool)
    bits[LEFT_WRIST, 10, 5] = True
    drawn = draw_bits(grey(), bits, skeleton=COCO_17, factor=1.0)
    # The cell's centre is at pixel (20, 40) of the crop and it is four pixels wide.
    coloured = np.argwhere((drawn != drawn[0, 0]).any(axis=-1))
    assert len(coloured) == 16
    assert coloured.min(axis=0).tolist() == [38, 18]
    colour = 0.8 * COLOURS[LEFT_WRIST] + 0.2 * 50
    np.testing.assert_allclose(drawn[40, 20], colour, atol=1)
    assert drawn[0, 0].tolist() == [50, 50, 50]


def test_overlapping_bits_mix_their_colours() -> None:
    bits = np.zeros((17, 32, 24), bool)
    bits[[LEFT_WRIST, RIGHT_ANKLE], 10, 5] = True
    colour = 0.8 * COLOURS[[LEFT_WRIST, RIGHT_ANKLE]].mean(axis=0) + 0.2 * 50
    np.testing.assert_allclose(draw_bits(grey(), bits, skeleton=COCO_17, factor=1.0)[40, 20], colour, atol=1)


def test_a_mask_keeps_the_person_light_and_the_rest_dark() -> None:
    mask = np.zeros((128, 96), np.uint8)
    mask[32:96, 24:72] = 1
    drawn = draw_mask(grey(256, 192), mask)
    assert drawn[128, 96].tolist() == [139, 122, 90]  # 0.75 * 100 + 0.25 * (255, 190, 60)
    assert drawn[10, 10].tolist() == [50, 50, 50]
    assert drawn[64, 100].tolist() == [255, 190, 60]


def test_an_error_leads_from_the_prediction_to_the_truth() -> None:
    drawn = draw_errors(grey(), at((20, 20)), at((20, 100)), factor=1.0, labelled_K=only(5))
    assert drawn[60, 20].min() > 220
    assert drawn[100, 20].tolist() == [255, 255, 255]
    assert (draw_errors(grey(), at((20, 20)), at((20, 100)), factor=1.0, labelled_K=only()) == 100).all()


def test_drawing_leaves_the_image_alone() -> None:
    image = grey()
    draw_pose(image, at((30, 40)), skeleton=COCO_17, factor=1.0, shown_K=only(9))
    draw_errors(image, at((30, 40)), at((50, 40)), factor=1.0, labelled_K=only(9))
    draw_bits(image, np.ones((17, 32, 24), bool), skeleton=COCO_17, factor=1.0)
    draw_mask(image, np.ones((128, 96), np.uint8))
    assert (image == 100).all()


def test_the_image_in_the_page_decodes_to_itself() -> None:
    head, _, body = data_uri(np.full((32, 24, 3), (200, 50, 20), np.uint8)).partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_allclose(decoded[16, 12][::-1], [200, 50, 20], atol=4)


@pytest.mark.parametrize(("num", "height"), [(1, 256), (64, 256), (400, 128), (100_000, 96)])
def test_many_tiles_are_smaller(num: int, height: int) -> None:
    assert tile_height(num, size_wh=(192, 256)) == height
