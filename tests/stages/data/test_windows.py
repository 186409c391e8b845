"""Crops out of windows equal those out of the image, except for the JPEG; if a window is too small, the image is used."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from stages.data import loader as loader_module
from stages.data.coco import read_coco, sort_out
from stages.data.images import read_image
from stages.data.loader import CropLoader
from stages.data.views import Views, draw_views
from stages.data.windows import ImageSource, WindowWriter, served_by_windows, window_of
from stages.pose.affine import box_to_center_size, crop_affine
from stages.pose.skeleton import COCO_17
from stages.settings import AugmentSettings
from storage_schemas.errors import CorruptEntryError
from storage_schemas.formats.instances import Instances, Record
from storage_schemas.formats.windows import write_index
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.shared_data import shared_data

SIZE_WH = (48, 64)
IMAGE_WH = (320, 240)
# x, y, w, h: in the middle, in a corner, over an edge, and one that fills the image.
BOXES = [(140.0, 100.0, 24.0, 36.0), (2.0, 3.0, 20.0, 30.0), (290.0, 60.0, 29.0, 40.0), (20.0, 5.0, 280.0, 230.0)]

U8 = npt.NDArray[np.uint8]


def record(number: int, box: tuple[float, float, float, float], *, name: str = "1.png") -> Record:
    center_2, size_2 = box_to_center_size(np.array(box), aspect_wh=0.75)
    x, y, w, h = box
    joint = np.arange(17)
    grid = np.stack([x + w * (joint % 4) / 4, y + h * (joint // 4) / 5, np.full(17, 2)], axis=-1).astype(np.float32)
    return Record(number, 1, name, *IMAGE_WH, np.array(box), center_2, size_2, 900.0, grid, None)


def smooth_image() -> U8:
    """Soft colours without noise, which JPEG changes little."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, IMAGE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)


def stored(folder: LocalPath, records: Sequence[Record], image_bgr: U8) -> tuple[Instances, ImageSource]:
    """The table of ``records``, and the windows cut out of their one image."""
    crops = folder / "crops"
    crops.mkdir()
    assert cv2.imwrite(str(folder / "1.png"), image_bgr)
    facts, image_hw3, _ = read_image(folder, "1.png", IMAGE_WH)
    writer = WindowWriter(crops, "windows-00000")
    writer.add(image_hw3, records)
    writer.flush()
    write_index(crops, writer.written)
    return Instances.from_records(records, {1: facts}, COCO_17), ImageSource(folder, crops)


def crops_of(instances: Instances, images: ImageSource, views: Sequence[Views], *, divisor: int = 1) -> npt.NDArray[np.int64]:
    """The input pixels [V, N, h, w, 3] of a network."""
    loader = CropLoader(instances, images, size_wh=(SIZE_WH[0] // divisor, SIZE_WH[1] // divisor), threads=2)
    try:
        ((*batches,),) = loader.batches([np.arange(len(instances.id_N))], views, crop_divisor=divisor)
        return np.stack([batch.image_Bhw3 for batch in batches]).astype(np.int64)
    finally:
        loader.close()


def views_of(instances: Instances, *numbers: int, augment: AugmentSettings | None = None) -> list[Views]:
    return [draw_views(instances, view, seed=0, augment=augment or AugmentSettings(), size_wh=SIZE_WH) for view in numbers]


# The windows


def test_a_window_holds_the_largest_rotated_crop_and_starts_at_a_jpeg_block() -> None:
    # Box 24 x 36 padded by 1.25: 33.75 x 45 px, of diagonal 56.25; 1.35 times that, halved, is 37.97 px around (152, 118).
    assert window_of(record(1, BOXES[0])) == (112, 80, 192 - 112, 160 - 80)
    # The corner: 0 to 47 around (12, 18), cut at the image's edge.
    left, top, width, height = window_of(record(2, BOXES[1])) or (1, 1, 0, 0)
    assert (left, top) == (0, 0)
    assert width % 16 == height % 16 == 0


def test_an_instance_that_fills_the_image_has_no_window() -> None:
    assert window_of(record(4, BOXES[3])) is None


def test_a_crop_is_served_only_if_the_window_holds_all_its_pixels() -> None:
    """Checked with pixels: a crop that takes pixels outside of the window shows the paint there."""
    instances = Instances.from_records(
        [record(number, box) for number, box in enumerate(BOXES)], {1: FileFacts(0, "")}, COCO_17
    )
    generator = np.random.default_rng(1)
    image_wh_N2 = np.tile(np.array(IMAGE_WH), (len(BOXES), 1))
    both = set()
    for view in views_of(instances, *range(60)):
        corner = generator.integers(0, 120, (len(BOXES), 2))
        window_N4 = np.concatenate([corner, np.minimum(generator.integers(40, 320, (len(BOXES), 2)), image_wh_N2 - corner)], 1)
        served = served_by_windows(window_N4, view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH)
        for row, (left, top, width, height) in enumerate(window_N4.tolist()):
            outside = np.full((IMAGE_WH[1], IMAGE_WH[0]), 255, np.uint8)
            outside[top : top + height, left : left + width] = 0
            touched = cv2.warpAffine(outside, view.affine_N23[row], SIZE_WH, flags=cv2.INTER_LINEAR).any()
            assert not (served[row] and touched)
            both.add((bool(served[row]), bool(touched)))
    assert {(True, False), (False, True)} <= both


def test_windows_serve_augmented_crops_up_to_their_reach_and_no_larger_ones() -> None:
    instances = Instances.from_records(
        [record(number, box) for number, box in enumerate(BOXES[:3])], {1: FileFacts(0, "")}, COCO_17
    )
    window_N4 = np.array([window_of(record(number, box)) for number, box in enumerate(BOXES[:3])])
    image_wh_N2 = np.tile(np.array(IMAGE_WH), (3, 1))
    for rotation in range(-90, 91, 15):
        for scale in (0.65, 1.0, 1.35, 2.0):
            affine_N23 = crop_affine(instances.center_N2, instances.size_N2 * scale, rotation_deg=rotation, size_wh=SIZE_WH)
            view = Views(affine_N23.astype(np.float32), np.zeros(3, np.bool_))
            served = served_by_windows(window_N4, view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH)
            if scale == 2.0:
                assert not served[0]
            elif scale < 1.35:
                assert served.all(), (rotation, scale)


def test_an_instance_without_a_window_is_never_served() -> None:
    view = views_of(Instances.from_records([record(1, BOXES[0])], {1: FileFacts(0, "")}, COCO_17), 0)[0]
    # Far outside of the image the crop needs no pixel, but there is no window either.
    view.affine_N23[..., 2] = 1e6
    image_wh_N2 = np.array([IMAGE_WH])
    assert not served_by_windows(np.zeros((1, 4), np.int64), view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH).any()


# The pixels


@pytest.mark.parametrize("divisor", [1, 2])
def test_crops_from_windows_differ_from_those_of_the_image_only_by_the_jpeg(tmp_path: LocalPath, divisor: int) -> None:
    instances, images = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_image())
    views = views_of(instances, *range(12))
    whole = crops_of(instances, ImageSource(images.root), views, divisor=divisor)
    found = crops_of(instances, images, views, divisor=divisor)
    # The mean difference is small; an image moved by one pixel differs much more.
    assert np.abs(found - whole).mean(axis=(2, 3, 4)).max() < 1.0
    assert np.abs(found - whole).max() <= 12
    assert np.abs(np.roll(whole, 1, axis=3) - whole)[:, 0].mean() > 2.0
    # They do differ, so they come from the windows, except for the instance without one.
    assert (found[:, :3] != whole[:, :3]).any(axis=(2, 3, 4)).mean() > 0.9
    assert np.array_equal(found[:, 3], whole[:, 3])


def test_a_crop_that_leaves_its_window_equals_that_of_the_image(tmp_path: LocalPath) -> None:
    instances, images = stored(tmp_path, [record(0, BOXES[0])], smooth_image())
    views = views_of(instances, *range(1, 40), augment=AugmentSettings(scale=0.9))
    whole, found = crops_of(instances, ImageSource(images.root), views), crops_of(instances, images, views)
    size = np.array([SIZE_WH[0] / np.hypot(*view.affine_N23[0, 0, :2]) for view in views])
    large = size > 1.6 * instances.size_N2[0, 0]
    assert 3 < large.sum() < 36
    assert np.array_equal(found[large], whole[large])
    assert not np.array_equal(found[size < instances.size_N2[0, 0]], whole[size < instances.size_N2[0, 0]])


def test_images_are_not_read_if_windows_serve_all_crops(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    instances, images = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES[:3])], smooth_image())
    views = views_of(instances, 0)
    expected = crops_of(instances, images, views)
    (tmp_path / "1.png").unlink()
    monkeypatch.setattr(loader_module, "load_image", None)
    assert np.array_equal(crops_of(instances, images, views), expected)


def test_a_part_of_the_table_finds_its_own_windows(tmp_path: LocalPath) -> None:
    instances, images = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_image())
    chosen = instances.select(np.array([2, 0]))
    assert np.array_equal(
        crops_of(chosen, images, views_of(chosen, 1)), crops_of(instances, images, views_of(instances, 1))[:, [2, 0]]
    )


def test_a_damaged_window_raises_and_is_named(tmp_path: LocalPath) -> None:
    instances, images = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_image())
    (shard,) = (tmp_path / "crops").glob("*.jpegs")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptEntryError, match="differs from the bytes written") as caught:
        crops_of(instances, images, views_of(instances, 0))
    assert "--stage prepare --force" in suggested(caught.value)


def test_a_new_shard_starts_when_one_is_large_enough(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.windows._SHARD_BYTES", 1)
    crops = tmp_path / "crops"
    crops.mkdir()
    writer = WindowWriter(crops, "windows-00007")
    for number in range(3):
        writer.add(smooth_image(), [record(number, BOXES[number])])
    writer.flush()
    assert [crop.shard for crop in writer.written] == [f"windows-00007-{number:03d}.jpegs" for number in range(3)]
    assert sorted(path.name for path in crops.iterdir()) == [crop.shard for crop in writer.written]


@pytest.mark.slow
def test_crops_of_photographs_differ_by_less_than_a_jpeg_does(tmp_path: LocalPath) -> None:
    """40 real images with their noise, all instances, six views."""
    folder = shared_data("coco_val2017_person_480")
    coco = read_coco(folder / "annotations" / "eval_official481.json", COCO_17)
    records = sort_out(coco, aspect_wh=0.75).records
    chosen = sorted({item.image_id for item in records})[:40]
    records = [item for item in records if item.image_id in chosen]
    writer, facts = WindowWriter(tmp_path, "windows-00000"), {}
    for image_id in chosen:
        ours = [item for item in records if item.image_id == image_id]
        facts[image_id], image_hw3, _ = read_image(folder / "images", ours[0].file_name, (ours[0].width, ours[0].height))
        writer.add(image_hw3, ours)
    writer.flush()
    write_index(tmp_path, writer.written)
    instances = Instances.from_records(records, facts, COCO_17)
    assert len(writer.written) > len(records) / 3
    views = views_of(instances, *range(6))
    whole = crops_of(instances, ImageSource(folder / "images"), views)
    found = crops_of(instances, ImageSource(folder / "images", tmp_path), views)
    per_crop = np.abs(found - whole).mean(axis=(2, 3, 4))
    assert per_crop.max() < 3.0
    assert 0.1 < per_crop[per_crop > 0].mean() < 1.2
