"""Batches of crops: threads decode and crop images ahead of the step that needs them.

Threads suffice, since decoding and warping release Python's lock; nothing is pickled, and the instance table exists once.
Shape letters: B batch, N instances, K keypoints, h w input pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stages.data.crops import crop_image, crop_keypoints, crop_mask
from stages.data.images import ImageError, decode_image, read_image_file
from stages.data.views import Views
from stages.data.windows import ImageSource, Windows, served_by_windows
from stages.pose.affine import moved_origin, scale_affine
from storage_schemas.errors import DataError, Remedy
from storage_schemas.formats.instances import Instances
from storage_schemas.paths.path import StorePath

__all__ = ["Batch", "CropLoader", "Rows", "batches_ahead", "load_image"]

_AHEAD = 3
"""Batches that threads prepare while another is used, so that a slow one is ready in time."""

_DECODED_KEPT = 2
"""Decoded images that each thread keeps for other instances of the same image; a phone photo takes 36 MB."""

Rows = npt.NDArray[np.int64]
_Cut = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Batch:
    """``image_Bhw3`` RGB uint8, ``keypoints_BK3`` in crop pixels, ``mask_Bhw`` of 0 and 1 (empty without masks)."""

    rows_B: Rows
    image_Bhw3: npt.NDArray[np.uint8]
    keypoints_BK3: npt.NDArray[np.float32]
    mask_Bhw: npt.NDArray[np.uint8]
    has_mask_B: npt.NDArray[np.bool_]


def batches_ahead(device: str) -> int:
    """How many batches to prepare ahead for a network on ``device``.

    On a CPU none: the threads of the network wait for each other after every layer, so a core that is busy with crops delays
    all of them.
    """
    return 0 if device == "cpu" else _AHEAD


def load_image(root: StorePath, instances: Instances, image: int) -> npt.NDArray[np.uint8]:
    """The image of index ``image`` as RGB [h, w, 3].

    Raises:
        DataError: the image has changed or become unreadable since stage prepare built the instance table.
    """
    name = instances.file_name_M[image]
    try:
        data = read_image_file(root, name)
        if hashlib.sha256(data).hexdigest() != instances.sha256_M[image]:
            # The copy of a bucket on this node may be outdated.
            data = read_image_file(root, name, refresh=True)
        if hashlib.sha256(data).hexdigest() != instances.sha256_M[image]:
            raise ImageError("its content has changed")
        return decode_image(data, expect_wh=(int(instances.width_M[image]), int(instances.height_M[image])))
    except ImageError as error:
        raise DataError(
            f"The image '{name}' below {root} was valid in stage prepare and is not any more: {error}",
            allowed="the image as stage prepare read it (restore it; of the embedded data set, delete the folder), "
            "or instance tables rebuilt for the images as they are",
            remedy=Remedy("run", text="the same command, once the image is restored", stage="prepare", force=True),
        ) from error


class CropLoader:
    """Cuts crops of ``size_wh`` out of images, or out of their windows if these hold all pixels of a crop.

    While one batch is used, threads prepare up to ``ahead`` others.
    """

    def __init__(
        self, instances: Instances, images: ImageSource, *, size_wh: tuple[int, int], threads: int, ahead: int = _AHEAD
    ) -> None:
        self._instances, self._root, self._size_wh = instances, images.root, size_wh
        self._windows = Windows(images.windows.fetch(), instances) if images.windows else None
        self._decoded: OrderedDict[int, Future[npt.NDArray[np.uint8]]] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = _DECODED_KEPT * threads
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="odkd-crops")
        # OpenCV's own threads would compete with the pool and with torch.
        cv2.setNumThreads(0)

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._pool.shutdown(cancel_futures=True)
        if self._windows:
            self._windows.close()

    def batches(
        self, rows: Iterable[Rows], views: Sequence[Views], *, crop_divisor: int = 1, with_mask: bool = False
    ) -> Iterator[list[Batch]]:
        """For each array of row numbers, in order, one ``Batch`` for each view; ``views`` cover all rows of the table.

        An image is decoded once for all views, and once for instances of the same image that are close in the order.
        """
        scaled = [
            Views(scale_affine(view.affine_N23.astype(np.float64), 1.0 / crop_divisor).astype(np.float32), view.flip_N)
            for view in views
        ]
        # Decided for the full-size crop: a student reads the same pixels as its teachers.
        served = [self._served(view, crop_divisor) for view in views]
        waiting: deque[tuple[Rows, list[Future[list[_Cut]]]]] = deque()
        for rows_B in rows:
            waiting.append((rows_B, [self._pool.submit(self._cut, int(row), scaled, served, with_mask) for row in rows_B]))
            if len(waiting) > self._ahead:
                yield self._collect(*waiting.popleft(), scaled)
        while waiting:
            yield self._collect(*waiting.popleft(), scaled)

    def _served(self, view: Views, crop_divisor: int) -> npt.NDArray[np.bool_]:
        """Which rows take their crop out of the window."""
        table = self._instances
        if self._windows is None:
            return np.zeros(len(table.id_N), np.bool_)
        image_wh_N2 = np.stack([table.width_M, table.height_M], axis=-1)[table.image_N].astype(np.int64)
        size_wh = (self._size_wh[0] * crop_divisor, self._size_wh[1] * crop_divisor)
        return served_by_windows(self._windows.window_N4, view, image_wh_N2=image_wh_N2, size_wh=size_wh)

    def _cut(self, row: int, views: Sequence[Views], served: Sequence[npt.NDArray[np.bool_]], with_mask: bool) -> list[_Cut]:
        table = self._instances
        image = int(table.image_N[row])
        image_wh = (int(table.width_M[image]), int(table.height_M[image]))
        rle = table.mask_rle[row].as_py() if with_mask else None
        width, height = self._size_wh
        sources = {by_window: self._source(row, by_window) for by_window in {bool(served_N[row]) for served_N in served}}
        no_mask = np.zeros((height, width) if with_mask else (0, 0), dtype=np.uint8)
        cuts: list[_Cut] = []
        for view, served_N in zip(views, served, strict=True):
            affine_23 = view.affine_N23[row]
            pixels_hw3, corner_xy = sources[bool(served_N[row])]
            crop = crop_image(pixels_hw3, moved_origin(affine_23, corner_xy), size_wh=self._size_wh)
            mask = no_mask if rle is None else crop_mask(rle, affine_23, image_wh=image_wh, size_wh=self._size_wh)
            cuts.append((crop, mask))
        return cuts

    def _source(self, row: int, by_window: bool) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
        """The pixels that hold an instance, and the position of their upper left corner in the image."""
        if by_window:
            assert self._windows is not None
            left, top = self._windows.window_N4[row, :2].tolist()
            return self._windows.decode(row), (left, top)
        return self._image(int(self._instances.image_N[row])), (0, 0)

    def _image(self, image: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            future = self._decoded.get(image)
            mine = future is None
            if future is None:
                future = self._decoded[image] = Future()
                while len(self._decoded) > self._kept:
                    self._decoded.popitem(last=False)
        if mine:
            try:
                future.set_result(load_image(self._root, self._instances, image))
            except Exception as error:
                # Any error: other threads wait for this image and would block forever.
                future.set_exception(error)
        return future.result()

    def _collect(self, rows_B: Rows, cuts: list[Future[list[_Cut]]], views: Sequence[Views]) -> list[Batch]:
        done = [cut.result() for cut in cuts]
        table = self._instances
        return [
            Batch(
                rows_B,
                np.stack([instance[index][0] for instance in done]),
                crop_keypoints(
                    table.keypoints_NK3[rows_B], view.affine_N23[rows_B], view.flip_N[rows_B], skeleton=table.skeleton
                ),
                np.stack([instance[index][1] for instance in done]),
                table.has_mask_N[rows_B],
            )
            for index, view in enumerate(views)
        ]
