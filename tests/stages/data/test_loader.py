"""Loading: the rows and the order of batches, and images that have changed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from stages.data import loader as loader_module
from stages.data.crops import crop_image, crop_keypoints, crop_mask
from stages.data.loader import Batch, CropLoader, batches_ahead, load_image
from stages.data.views import Views, draw_views
from stages.data.windows import ImageSource
from stages.settings import AugmentSettings
from storage_schemas.errors import DataError
from storage_schemas.formats.instances import Instances
from storage_schemas.paths.local import LocalPath
from tests.support.errors import suggested
from tests.support.instance_samples import IMAGE_PX, make_instances, mask_rle, write_images

# pycocotools 2.0.11 under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE_WH = (48, 64)
IMAGES = [1, 1, 2, 3, 3, 3, 4, 5]


@pytest.fixture
def instances(tmp_path: LocalPath) -> Instances:
    mask = np.zeros((IMAGE_PX, IMAGE_PX), bool)
    mask[10:40, 20:35] = True
    masks = [mask_rle(mask) if row % 2 == 0 else None for row in range(len(IMAGES))]
    return make_instances(IMAGES, facts=write_images(tmp_path, sorted(set(IMAGES))), masks=masks)


def _views(instances: Instances, *views: int) -> list[Views]:
    return [draw_views(instances, view, seed=0, augment=AugmentSettings(), size_wh=SIZE_WH) for view in views]


@pytest.fixture
def loader(instances: Instances, tmp_path: LocalPath) -> Iterator[CropLoader]:
    made = CropLoader(instances, ImageSource(tmp_path), size_wh=SIZE_WH, threads=3)
    yield made
    made.close()


class _Counted:
    """Loads images with a delay, longest for the first ones, and counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, delay: float = 0.0) -> None:
        self.calls: Counter[int] = Counter()
        self._delay = delay
        monkeypatch.setattr(loader_module, "load_image", self)

    def __call__(self, root: LocalPath, instances: Instances, image: int) -> npt.NDArray[np.uint8]:
        self.calls[image] += 1
        time.sleep(self._delay / (image + 1))
        return load_image(root, instances, image)


# The batches


def _assert_is(batch: Batch, instances: Instances, view: Views, root: LocalPath) -> None:
    for index, row in enumerate(batch.rows_B):
        image = load_image(root, instances, int(instances.image_N[row]))
        assert np.array_equal(batch.image_Bhw3[index], crop_image(image, view.affine_N23[row], size_wh=SIZE_WH))
    expected = crop_keypoints(instances.keypoints_NK3, view.affine_N23, view.flip_N, skeleton=instances.skeleton)
    assert np.array_equal(batch.keypoints_BK3, expected[batch.rows_B])


def test_batches_are_in_order_and_have_the_crops_of_their_rows(
    loader: CropLoader, instances: Instances, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Counted(monkeypatch, delay=0.05)
    views = _views(instances, 1, 2)
    order = [np.array(rows) for rows in ([0, 7], [6, 1], [2, 3], [5, 4], [0, 3], [7, 2])]
    batches = list(loader.batches(iter(order), views))
    assert [[batch.rows_B.tolist() for batch in pair] for pair in batches] == [[rows.tolist()] * 2 for rows in order]
    for pair in batches:
        for batch, view in zip(pair, views, strict=True):
            _assert_is(batch, instances, view, tmp_path)
            assert batch.mask_Bhw.shape == (2, 0, 0)


def test_colours_are_red_green_blue(tmp_path: LocalPath) -> None:
    red = np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    facts = write_images(tmp_path, [1])
    assert cv2.imwrite(str(tmp_path / "1.png"), red)
    with pytest.raises(DataError):
        load_image(tmp_path, make_instances([1], facts=facts), 0)
    from stages.data.images import check_image

    instances = make_instances([1], facts={1: check_image(tmp_path, "1.png", (IMAGE_PX, IMAGE_PX))})
    assert load_image(tmp_path, instances, 0)[5, 5].tolist() == [255, 0, 0]


def test_masks_are_cropped_like_their_images_and_empty_if_unknown(loader: CropLoader, instances: Instances) -> None:
    (view,) = _views(instances, 1)
    ((batch,),) = loader.batches([np.array([0, 1, 2])], [view], with_mask=True)
    assert batch.has_mask_B.tolist() == [True, False, True]
    assert batch.mask_Bhw.shape == (3, SIZE_WH[1], SIZE_WH[0])
    assert not batch.mask_Bhw[1].any()
    for row in (0, 2):
        rle = instances.mask_rle[row].as_py()
        cut = crop_mask(rle, view.affine_N23[row], image_wh=(IMAGE_PX, IMAGE_PX), size_wh=SIZE_WH)
        assert cut.any()
        assert np.array_equal(batch.mask_Bhw[row], cut)


def test_a_smaller_input_is_the_same_crop_scaled_down(instances: Instances, tmp_path: LocalPath) -> None:
    (view,) = _views(instances, 1)
    half = CropLoader(instances, ImageSource(tmp_path), size_wh=(24, 32), threads=1)
    ((batch,),) = half.batches([np.array([3])], [view], crop_divisor=2)
    half.close()
    assert batch.image_Bhw3.shape == (1, 32, 24, 3)
    whole = crop_keypoints(instances.keypoints_NK3, view.affine_N23, view.flip_N, skeleton=instances.skeleton)
    assert np.allclose(batch.keypoints_BK3[0, :, :2], whole[3, :, :2] / 2, atol=1e-4)


def test_an_image_is_decoded_once_for_all_its_views_and_instances(
    loader: CropLoader, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _Counted(monkeypatch, delay=0.02)
    rows = [np.array(pair) for pair in ([0, 1], [2, 3], [4, 5], [6, 7])]
    assert len(list(loader.batches(rows, _views(instances, 0, 1, 2)))) == 4
    assert counted.calls == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize(("device", "decoded"), [("cpu", {0, 1}), ("cuda", {0, 1, 2, 3, 4})])
def test_no_batch_is_prepared_ahead_of_a_network_on_the_cpu(
    instances: Instances, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch, device: str, decoded: set[int]
) -> None:
    counted = _Counted(monkeypatch)
    rows = [np.array(pair) for pair in ([0, 1, 2], [3, 4], [5, 6], [7])]
    loader = CropLoader(instances, ImageSource(tmp_path), size_wh=SIZE_WH, threads=2, ahead=batches_ahead(device))
    batches = loader.batches(rows, _views(instances, 0))
    taken = [next(batches)[0]]
    until = time.monotonic() + (0.3 if device == "cpu" else 10)
    while len(counted.calls) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    assert set(counted.calls) == decoded
    taken += [batch for (batch,) in batches]
    loader.close()
    assert [batch.rows_B.tolist() for batch in taken] == [[0, 1, 2], [3, 4], [5, 6], [7]]


def test_an_image_is_decoded_once_even_if_many_images_are_between_its_views(
    instances: Instances, tmp_path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With space for one image and two threads, the image of each thread is dropped while still in use."""
    monkeypatch.setattr(loader_module, "_DECODED_KEPT", 0)
    counted = _Counted(monkeypatch)
    tight = CropLoader(instances, ImageSource(tmp_path), size_wh=SIZE_WH, threads=2)
    list(tight.batches([np.array([0, 2, 3, 6, 7])], _views(instances, *range(6))))
    tight.close()
    assert counted.calls == dict.fromkeys(range(5), 1)


# Errors


def test_an_error_names_an_image_with_changed_bytes(loader: CropLoader, instances: Instances, tmp_path: LocalPath) -> None:
    path = tmp_path / "3.png"
    assert cv2.imwrite(str(path), np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8))
    with pytest.raises(DataError, match=r"'3\.png' below .* its content has changed") as caught:
        list(loader.batches([np.array([0, 2, 3, 4])], _views(instances, 0)))
    assert "--stage prepare --force" in suggested(caught.value)


def test_an_error_names_a_missing_image(loader: CropLoader, instances: Instances, tmp_path: LocalPath) -> None:
    (tmp_path / "5.png").unlink()
    with pytest.raises(DataError, match=r"'5\.png'"):
        list(loader.batches([np.array([7])], _views(instances, 0)))


@pytest.mark.timeout(20)
def test_any_error_reaches_all_threads_that_wait_for_the_image(
    loader: CropLoader, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> npt.NDArray[np.uint8]:
        time.sleep(0.1)
        raise MemoryError("no room")

    monkeypatch.setattr(loader_module, "load_image", fail)
    # Three instances of one image, each in a thread of its own.
    with pytest.raises(MemoryError, match="no room"):
        list(loader.batches([np.array([3, 4, 5])], _views(instances, 0)))
