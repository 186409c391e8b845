"""Windows around instances, cut out of images once and stored as JPEGs, and which crops can be taken out of them.

If the window of an instance holds all image pixels that a crop needs, the crop is taken out of the window and differs from
that of the image only by the JPEG compression. Otherwise the image is decoded. Geometry alone decides, before any decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from stages.data.images import ImageError, decode_image
from stages.data.views import Views
from stages.pose.affine import apply_affine, invert_affine
from storage_schemas.errors import CorruptEntryError, Remedy
from storage_schemas.formats.instances import Instances, Record
from storage_schemas.formats.windows import StoredWindow, WindowShards, write_shard
from storage_schemas.paths.path import Folder, StorePath

__all__ = ["WINDOWS_RECIPE", "ImageSource", "WindowWriter", "Windows", "served_by_windows", "window_of"]

_REACH = 1.35
"""A window holds crops up to this factor larger than a plain crop, rotated by any angle (HRNet's largest)."""
_ALIGN_PX = 16
"""Windows start at block borders of the image's own JPEG: compressing on the same grid again loses less."""
_MAX_SHARE = 0.6
"""Largest share of the image's pixels: decoding a larger window takes as long as decoding the image."""
_QUALITY = 95
_SUBSAMPLING = "444"
_SHARD_BYTES = 64 << 20

WINDOWS_RECIPE = {
    "reach": _REACH,
    "align_px": _ALIGN_PX,
    "max_share": _MAX_SHARE,
    "jpeg": [_QUALITY, _SUBSAMPLING],
    "version": 1,
}
"""The settings of windows, as part of the key of an instance table."""

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageSource:
    """The folder of the images and, if stage prepare stored windows, the folder of these."""

    root: StorePath
    windows: Folder | None = None


def window_of(record: Record) -> tuple[int, int, int, int] | None:
    """The window (left, top, width, height) of an instance in image pixels, or None if it would be too large."""
    image_wh = np.array([record.width, record.height])
    reach = _REACH * math.hypot(*record.size_2.tolist()) / 2
    low = np.clip(np.floor(record.center_2 - reach), 0, image_wh).astype(np.int64) // _ALIGN_PX * _ALIGN_PX
    high = np.clip(np.ceil(record.center_2 + reach), 0, image_wh).astype(np.int64)
    high = np.minimum(-(-high // _ALIGN_PX) * _ALIGN_PX, image_wh)
    width, height = (high - low).tolist()
    if not 0 < width * height <= _MAX_SHARE * record.width * record.height:
        return None
    return int(low[0]), int(low[1]), width, height


class WindowWriter:
    """Collects windows and writes them as shards into ``folder``; ``prefix`` starts the names of the shards."""

    def __init__(self, folder: Path, prefix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._prefix = folder, prefix
        self._waiting: list[tuple[Record, tuple[int, int, int, int], bytes]] = []
        self._size, self._shards = 0, 0
        self.written: list[StoredWindow] = []

    def add(self, image_hw3: U8, records: Sequence[Record]) -> None:
        """Cut the windows of ``records`` out of their image."""
        for record in records:
            window = window_of(record)
            if window is not None:
                left, top, width, height = window
                cut_hw3 = np.ascontiguousarray(image_hw3[top : top + height, left : left + width])
                jpeg = simplejpeg.encode_jpeg(cut_hw3, quality=_QUALITY, colorsubsampling=_SUBSAMPLING)
                self._waiting.append((record, window, jpeg))
                self._size += len(jpeg)
        if self._size >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the collected windows."""
        if not self._waiting:
            return
        name = f"{self._prefix}-{self._shards:03d}.jpegs"
        parts = write_shard(self._folder, name, [jpeg for _, _, jpeg in self._waiting])
        for (record, window, _), part in zip(self._waiting, parts, strict=True):
            self.written.append(StoredWindow(record.annotation_id, *window, name, *part))
        self._waiting, self._size, self._shards = [], 0, self._shards + 1


def served_by_windows(window_N4: I64, views: Views, *, image_wh_N2: I64, size_wh: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether each window (left, top, width, height) holds all image pixels that the crop of ``size_wh`` takes.

    False for windows of width 0.
    """
    width, height = size_wh
    # One pixel more on each side: linear interpolation reads it, and cv2's fixed-point coordinates may round to it.
    corners_42 = np.array([[-1, -1], [width, -1], [width, height], [-1, height]], np.float64)
    back_N23 = invert_affine(views.affine_N23.astype(np.float64))
    points_N42 = apply_affine(back_N23, np.broadcast_to(corners_42, (len(back_N23), 4, 2)))
    low_N2 = np.clip(np.floor(points_N42.min(axis=1)) - 1, 0, image_wh_N2)
    high_N2 = np.clip(np.ceil(points_N42.max(axis=1)) + 2, 0, image_wh_N2)
    start_N2, stop_N2 = window_N4[:, :2], window_N4[:, :2] + window_N4[:, 2:]
    served: npt.NDArray[np.bool_] = ((start_N2 <= low_N2) & (high_N2 <= stop_N2)).all(axis=1) & (window_N4[:, 2] > 0)
    return served


class Windows:
    """The windows of the instances of a table, by row of the table."""

    def __init__(self, folder: Path, instances: Instances) -> None:
        self._shards = WindowShards(folder)
        self._row_N = self._shards.rows_of(instances.id_N)
        self.window_N4 = np.zeros((len(self._row_N), 4), np.int64)
        self.window_N4[self._row_N >= 0] = self._shards.window_N4[self._row_N[self._row_N >= 0]]

    def decode(self, row: int) -> U8:
        """The window [h, w, 3] of a row that has one.

        Raises:
            CorruptEntryError: the window differs from the bytes written.
        """
        width, height = self.window_N4[row, 2:].tolist()
        try:
            return decode_image(self._shards.read(int(self._row_N[row])), expect_wh=(width, height))
        except ImageError as error:
            raise CorruptEntryError(
                f"The window of row {row} cannot be decoded: {error}", remedy=Remedy("run", kind="instances", force=True)
            ) from error

    def close(self) -> None:
        """Close the files."""
        self._shards.close()
