"""Crops out of stored windows are those out of the picture, but for the JPEG; if a window is too small the picture serves."""

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
from storage_schemas.formats.instances import ImageFacts, Instances, Record
from storage_schemas.formats.windows import write_index
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.shared_data import shared_data

SIZE_WH = (48, 64)
PICTURE_WH = (320, 240)
# x, y, w, h: in the middle, in a corner, over an edge, and one who fills the picture.
BOXES = [(140.0, 100.0, 24.0, 36.0), (2.0, 3.0, 20.0, 30.0), (290.0, 60.0, 29.0, 40.0), (20.0, 5.0, 280.0, 230.0)]

U8 = npt.NDArray[np.uint8]


def record(number: int, box: tuple[float, float, float, float], *, name: str = "1.png") -> Record:
    center_2, size_2 = box_to_center_size(np.array(box), aspect_wh=0.75)
    x, y, w, h = box
    joint = np.arange(17)
    grid = np.stack([x + w * (joint % 4) / 4, y + h * (joint // 4) / 5, np.full(17, 2)], axis=-1).astype(np.float32)
    return Record(number, 1, name, *PICTURE_WH, np.array(box), center_2, size_2, 900.0, grid, None, False)


def smooth_picture() -> U8:
    """Like a photograph, of which JPEG keeps nearly all: soft colours, without noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, PICTURE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)


def stored(folder: LocalPath, records: Sequence[Record], picture_bgr: U8) -> tuple[Instances, ImageSource]:
    """The table of ``records``, and the windows cut out of their one picture."""
    crops = folder / "crops"
    crops.mkdir()
    assert cv2.imwrite(str(folder / "1.png"), picture_bgr)
    facts, image_hw3 = read_image(folder, "1.png", PICTURE_WH)
    writer = WindowWriter(crops, "windows-00000")
    writer.add(image_hw3, records)
    writer.flush()
    write_index(crops, writer.written)
    return Instances.from_records(records, {1: facts}, COCO_17), ImageSource(folder, crops)


def crops_of(people: Instances, pictures: ImageSource, views: Sequence[Views], *, divisor: int = 1) -> npt.NDArray[np.int64]:
    """The pixels [V, N, h, w, 3] that a network sees."""
    loader = CropLoader(people, pictures, size_wh=(SIZE_WH[0] // divisor, SIZE_WH[1] // divisor), threads=2)
    try:
        ((*batches,),) = loader.batches([np.arange(len(people.id_N))], views, crop_divisor=divisor)
        return np.stack([batch.image_Bhw3 for batch in batches]).astype(np.int64)
    finally:
        loader.close()


def views_of(people: Instances, *numbers: int, augment: AugmentSettings | None = None) -> list[Views]:
    return [draw_views(people, view, seed=0, augment=augment or AugmentSettings(), size_wh=SIZE_WH) for view in numbers]


# The windows


def test_a_window_holds_the_largest_turned_crop_and_begins_where_jpegs_blocks_do() -> None:
    # Box 24 x 36 padded by 1.25: 33.75 x 45 px, of diagonal 56.25; 1.35 times that, halved, is 37.97 px around (152, 118).
    assert window_of(record(1, BOXES[0])) == (112, 80, 192 - 112, 160 - 80)
    # The corner: 0 to 47 around (12, 18), cut at the picture's edge.
    left, top, width, height = window_of(record(2, BOXES[1])) or (1, 1, 0, 0)
    assert (left, top) == (0, 0)
    assert width % 16 == height % 16 == 0


def test_whoever_fills_the_picture_has_no_window() -> None:
    assert window_of(record(4, BOXES[3])) is None


def test_a_crop_is_served_exactly_where_the_window_holds_all_pixels_that_it_takes() -> None:
    """Against the pixels themselves: what the crop takes is found by painting the picture outside of the window."""
    people = Instances.from_records([record(number, box) for number, box in enumerate(BOXES)], {1: ImageFacts("", 0)}, COCO_17)
    generator = np.random.default_rng(1)
    image_wh_N2 = np.tile(np.array(PICTURE_WH), (len(BOXES), 1))
    both = set()
    for view in views_of(people, *range(60)):
        corner = generator.integers(0, 120, (len(BOXES), 2))
        window_N4 = np.concatenate([corner, np.minimum(generator.integers(40, 320, (len(BOXES), 2)), image_wh_N2 - corner)], 1)
        served = served_by_windows(window_N4, view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH)
        for row, (left, top, width, height) in enumerate(window_N4.tolist()):
            outside = np.full((PICTURE_WH[1], PICTURE_WH[0]), 255, np.uint8)
            outside[top : top + height, left : left + width] = 0
            touched = cv2.warpAffine(outside, view.affine_N23[row], SIZE_WH, flags=cv2.INTER_LINEAR).any()
            assert not (served[row] and touched)
            both.add((bool(served[row]), bool(touched)))
    assert {(True, False), (False, True)} <= both


def test_augmented_crops_of_whole_people_lie_in_their_windows_and_no_others_are_taken_from_there() -> None:
    people = Instances.from_records(
        [record(number, box) for number, box in enumerate(BOXES[:3])], {1: ImageFacts("", 0)}, COCO_17
    )
    window_N4 = np.array([window_of(record(number, box)) for number, box in enumerate(BOXES[:3])])
    image_wh_N2 = np.tile(np.array(PICTURE_WH), (3, 1))
    for rotation in range(-90, 91, 15):
        for scale in (0.65, 1.0, 1.35, 2.0):
            affine_N23 = crop_affine(people.center_N2, people.size_N2 * scale, rotation_deg=rotation, size_wh=SIZE_WH)
            view = Views(affine_N23.astype(np.float32), np.zeros(3, np.bool_))
            served = served_by_windows(window_N4, view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH)
            if scale == 2.0:
                assert not served[0]
            elif scale < 1.35:
                assert served.all(), (rotation, scale)


def test_a_person_without_a_window_is_never_served() -> None:
    view = views_of(Instances.from_records([record(1, BOXES[0])], {1: ImageFacts("", 0)}, COCO_17), 0)[0]
    # Far outside of the picture there are no pixels to take, and yet nothing to take them from either.
    view.affine_N23[..., 2] = 1e6
    image_wh_N2 = np.array([PICTURE_WH])
    assert not served_by_windows(np.zeros((1, 4), np.int64), view, image_wh_N2=image_wh_N2, size_wh=SIZE_WH).any()


# The pixels


@pytest.mark.parametrize("divisor", [1, 2])
def test_crops_from_windows_are_those_from_the_picture_but_for_the_jpeg(tmp_path: LocalPath, divisor: int) -> None:
    people, pictures = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_picture())
    views = views_of(people, *range(12))
    whole = crops_of(people, ImageSource(pictures.root), views, divisor=divisor)
    found = crops_of(people, pictures, views, divisor=divisor)
    # Two colours apart at most in the mean, where a picture that was moved by a single pixel is much further.
    assert np.abs(found - whole).mean(axis=(2, 3, 4)).max() < 1.0
    assert np.abs(found - whole).max() <= 12
    assert np.abs(np.roll(whole, 1, axis=3) - whole)[:, 0].mean() > 2.0
    # And not the same: they do come from the windows, but for the one who has none.
    assert (found[:, :3] != whole[:, :3]).any(axis=(2, 3, 4)).mean() > 0.9
    assert np.array_equal(found[:, 3], whole[:, 3])


def test_a_crop_that_leaves_its_window_is_the_pictures_own_to_the_last_bit(tmp_path: LocalPath) -> None:
    people, pictures = stored(tmp_path, [record(0, BOXES[0])], smooth_picture())
    views = views_of(people, *range(1, 40), augment=AugmentSettings(scale=0.9))
    whole, found = crops_of(people, ImageSource(pictures.root), views), crops_of(people, pictures, views)
    size = np.array([SIZE_WH[0] / np.hypot(*view.affine_N23[0, 0, :2]) for view in views])
    large = size > 1.6 * people.size_N2[0, 0]
    assert 3 < large.sum() < 36
    assert np.array_equal(found[large], whole[large])
    assert not np.array_equal(found[size < people.size_N2[0, 0]], whole[size < people.size_N2[0, 0]])


def test_pictures_of_those_who_are_served_are_not_read(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    people, pictures = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES[:3])], smooth_picture())
    views = views_of(people, 0)
    expected = crops_of(people, pictures, views)
    (tmp_path / "1.png").unlink()
    monkeypatch.setattr(loader_module, "load_image", None)
    assert np.array_equal(crops_of(people, pictures, views), expected)


def test_a_part_of_the_table_finds_its_own_windows(tmp_path: LocalPath) -> None:
    people, pictures = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_picture())
    chosen = people.select(np.array([2, 0]))
    assert np.array_equal(
        crops_of(chosen, pictures, views_of(chosen, 1)), crops_of(people, pictures, views_of(people, 1))[:, [2, 0]]
    )


def test_a_damaged_window_ends_the_reading_and_is_named(tmp_path: LocalPath) -> None:
    people, pictures = stored(tmp_path, [record(number, box) for number, box in enumerate(BOXES)], smooth_picture())
    (shard,) = (tmp_path / "crops").glob("*.jpegs")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptEntryError, match="differs from the bytes written") as caught:
        crops_of(people, pictures, views_of(people, 0))
    assert "--stage prepare --force" in suggested(caught.value)


def test_shards_are_cut_where_they_are_large_enough(tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.windows._SHARD_BYTES", 1)
    crops = tmp_path / "crops"
    crops.mkdir()
    writer = WindowWriter(crops, "windows-00007")
    for number in range(3):
        writer.add(smooth_picture(), [record(number, BOXES[number])])
    writer.flush()
    assert [crop.shard for crop in writer.written] == [f"windows-00007-{number:03d}.jpegs" for number in range(3)]
    assert sorted(path.name for path in crops.iterdir()) == [crop.shard for crop in writer.written]


@pytest.mark.slow
def test_on_photographs_crops_differ_by_less_than_a_jpeg_does(tmp_path: LocalPath) -> None:
    """Real pictures with all their noise: 40 of them, everybody, six views."""
    folder = shared_data("coco_val2017_person_480")
    coco = read_coco(folder / "annotations" / "eval_official481.json", COCO_17)
    records = sort_out(coco, aspect_wh=0.75, holdout_fraction=0.0).records
    chosen = sorted({item.image_id for item in records})[:40]
    records = [item for item in records if item.image_id in chosen]
    writer, facts = WindowWriter(tmp_path, "windows-00000"), {}
    for image_id in chosen:
        ours = [item for item in records if item.image_id == image_id]
        facts[image_id], image_hw3 = read_image(folder / "images", ours[0].file_name, (ours[0].width, ours[0].height))
        writer.add(image_hw3, ours)
    writer.flush()
    write_index(tmp_path, writer.written)
    people = Instances.from_records(records, facts, COCO_17)
    assert len(writer.written) > len(records) / 3
    views = views_of(people, *range(6))
    whole = crops_of(people, ImageSource(folder / "images"), views)
    found = crops_of(people, ImageSource(folder / "images", tmp_path), views)
    per_crop = np.abs(found - whole).mean(axis=(2, 3, 4))
    assert per_crop.max() < 3.0
    assert 0.1 < per_crop[per_crop > 0].mean() < 1.2
