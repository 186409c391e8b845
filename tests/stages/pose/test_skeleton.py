"""COCO_17 equals COCO's joint set, and five keypoints work from the instance table to AP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pycocotools.cocoeval import Params

from stages.data.crops import crop_keypoints
from stages.data.views import draw_views
from stages.pose.binarize import binarize
from stages.pose.decode import decode, decode_bits, to_image
from stages.pose.flip import flip_merge
from stages.pose.heatmap import encode
from stages.pose.skeleton import COCO_17
from stages.scoring.coco_ap import evaluate
from stages.scoring.coco_results import coco_results
from stages.scoring.oks import oks_matrix
from stages.settings import AugmentSettings
from storage_schemas.formats.instances import read_instances, write_instances
from storage_schemas.formats.targets import pack_bits, target_arrays, unpack_bits
from tests.support.instance_samples import make_instances
from tests.support.toy_skeleton import TOY_5

CROP_WH = (96, 128)
HEATMAP_WH = (24, 32)


def test_the_flip_swaps_left_and_right_names() -> None:
    for name, other in zip(COCO_17.keypoints, (COCO_17.keypoints[index] for index in COCO_17.flip), strict=True):
        assert other == name.replace("left", "?").replace("right", "left").replace("?", "right")


def test_sigmas_are_those_of_coco_and_cannot_be_changed() -> None:
    np.testing.assert_array_equal(COCO_17.sigmas_K, Params("keypoints").kpt_oks_sigmas)
    assert not COCO_17.sigmas_K.flags.writeable


def test_the_two_body_halves_are_all_keypoints() -> None:
    assert (*COCO_17.upper, *COCO_17.lower) == tuple(range(COCO_17.num_keypoints))
    assert {COCO_17.keypoints[index].split("_")[-1] for index in COCO_17.lower} == {"hip", "knee", "ankle"}


def test_limbs_connect_every_keypoint_and_are_mirror_symmetric() -> None:
    limbs = {frozenset(limb) for limb in COCO_17.limbs}
    assert len(limbs) == len(COCO_17.limbs) == 19
    assert {index for limb in limbs for index in limb} == set(range(COCO_17.num_keypoints))
    assert {frozenset(COCO_17.flip[index] for index in limb) for limb in limbs} == limbs


def test_adding_a_joint_set_takes_one_value(tmp_path: Path) -> None:
    """Only ``TOY_5`` knows that there are five keypoints: table, views, heatmaps, bits, decoding, flip, OKS and AP follow."""
    write_instances(tmp_path / "t", make_instances([1, 2], skeleton=TOY_5))
    instances = read_instances(tmp_path / "t")
    assert instances.skeleton == TOY_5
    assert instances.keypoints_NK3.shape == (2, 5, 3)

    augment = AugmentSettings(rotation_deg=20.0, rotation_prob=1.0, flip_prob=1.0, half_body_prob=1.0)
    views = draw_views(instances, 1, seed=0, augment=augment, size_wh=CROP_WH)
    keypoints_NK3 = crop_keypoints(instances.keypoints_NK3, views.affine_N23, views.flip_N, skeleton=TOY_5)
    assert views.flip_N.all()
    heat_NKHW, weight_NK = encode(
        torch.from_numpy(keypoints_NK3[..., :2]), torch.from_numpy(keypoints_NK3[..., 2]), size_wh=HEATMAP_WH, sigma_px=1.0
    )
    bits_NKHW, peak_NK, _ = binarize(heat_NKHW, mode="relative", threshold=0.5, min_peak=0.2, keep="peak_component")

    packed_NP = pack_bits(bits_NKHW.numpy())
    assert [array.row for array in target_arrays(HEATMAP_WH, TOY_5.num_keypoints)] == [packed_NP.shape[1:], peak_NK.shape[1:]]
    unpacked_NKHW = torch.from_numpy(unpack_bits(packed_NP, (TOY_5.num_keypoints, *HEATMAP_WH[::-1])))
    assert torch.equal(unpacked_NKHW, bits_NKHW)

    # The crop is mirrored, so the keypoints come back swapped; the flip merge undoes it.
    xy_NK2, _ = decode_bits(unpacked_NKHW, peak_NK)
    swapped_NK2 = to_image(xy_NK2, views.affine_N23)[:, list(TOY_5.flip)]
    seen_NK = (weight_NK > 0).numpy()[:, list(TOY_5.flip)]
    assert seen_NK.any()
    np.testing.assert_allclose(swapped_NK2[seen_NK], instances.keypoints_NK3[..., :2][seen_NK], atol=3)
    mirrored_NKHW = heat_NKHW.flip(-1)[:, list(TOY_5.flip)]
    merged_NKHW = flip_merge(heat_NKHW, mirrored_NKHW, skeleton=TOY_5, shift=False)
    assert torch.equal(decode(merged_NKHW, decoder="quarter")[0], decode(heat_NKHW, decoder="quarter")[0])

    pose_NK3 = instances.keypoints_NK3.copy()
    np.testing.assert_allclose(oks_matrix(pose_NK3, instances.area_N, skeleton=TOY_5), 1.0)
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [
            {
                "id": 1 + row,
                "image_id": 1 + row,
                "category_id": 1,
                "bbox": instances.box_N4[row].tolist(),
                "area": 900.0,
                "keypoints": pose_NK3[row].ravel().tolist(),
            }
            for row in range(2)
        ],
    }
    scores = evaluate(truth, coco_results(np.array([1, 2]), np.ones(2), pose_NK3), skeleton=TOY_5)
    assert scores.AP == 1.0
    assert [joint.name for joint in scores.joints] == list(TOY_5.keypoints)
