"""Windows around people, cut out of pictures once and kept as JPEGs: which there are, and for which crops they serve.

A crop takes the pixels that its matrix leads to. Where all of these that are in the picture lie in the person's window, the
window serves in the picture's place, and the crop is the same but for the JPEG; where not, the picture itself is decoded. That
is decided by geometry alone, before anything is decoded.
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

__all__ = ["WINDOWS_RECIPE", "CropWindows", "ImageSource", "WindowWriter", "served_by_windows", "window_of"]

_REACH = 1.35
"""How much larger than a plain crop, turned by any angle, an augmented one may be for its window to hold it (HRNet's most)."""
_ALIGN_PX = 16
"""Windows begin where blocks of the picture's own JPEG do: compressed again on the same grid, they lose less."""
_MAX_SHARE = 0.6
"""Of the picture's pixels: a larger window is not kept, since decoding it takes as long as the picture."""
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
"""What stored crops depend on beside the pictures and the people: part of the table's key."""

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageSource:
    """The folder of the images and, if stage prepare stored windows, the folder of these."""

    root: StorePath
    crops: Folder | None = None


def window_of(record: Record) -> tuple[int, int, int, int] | None:
    """The window (left, top, width, height) of a person in pixels of the picture, or None where the picture does as well."""
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
    """Collects windows and writes them as shards into ``folder``, under names that begin with ``prefix``."""

    def __init__(self, folder: Path, prefix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._prefix = folder, prefix
        self._waiting: list[tuple[Record, tuple[int, int, int, int], bytes]] = []
        self._size, self._shards = 0, 0
        self.written: list[StoredWindow] = []

    def add(self, image_hw3: U8, records: Sequence[Record]) -> None:
        """Cut the windows of ``records`` out of the picture that they are in."""
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
        """Write what is waiting."""
        if not self._waiting:
            return
        name = f"{self._prefix}-{self._shards:03d}.jpegs"
        places = write_shard(self._folder, name, [jpeg for _, _, jpeg in self._waiting])
        for (record, window, _), place in zip(self._waiting, places, strict=True):
            self.written.append(StoredWindow(record.annotation_id, *window, name, *place))
        self._waiting, self._size, self._shards = [], 0, self._shards + 1


def served_by_windows(window_N4: I64, views: Views, *, image_wh_N2: I64, size_wh: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """For whom the window (left, top, width, height) holds every pixel of the picture that the crop of ``size_wh`` takes.

    A window of width 0 serves nobody.
    """
    width, height = size_wh
    # Beyond the outermost pixels by one, which linear interpolation reads and cv2's fixed-point coordinates may round to.
    corners_42 = np.array([[-1, -1], [width, -1], [width, height], [-1, height]], np.float64)
    back_N23 = invert_affine(views.affine_N23.astype(np.float64))
    points_N42 = apply_affine(back_N23, np.broadcast_to(corners_42, (len(back_N23), 4, 2)))
    low_N2 = np.clip(np.floor(points_N42.min(axis=1)) - 1, 0, image_wh_N2)
    high_N2 = np.clip(np.ceil(points_N42.max(axis=1)) + 2, 0, image_wh_N2)
    start_N2, stop_N2 = window_N4[:, :2], window_N4[:, :2] + window_N4[:, 2:]
    served: npt.NDArray[np.bool_] = ((start_N2 <= low_N2) & (high_N2 <= stop_N2)).all(axis=1) & (window_N4[:, 2] > 0)
    return served


class CropWindows:
    """The stored windows of the people of a table, by row of the table."""

    def __init__(self, folder: Path, instances: Instances) -> None:
        self._shards = WindowShards(folder)
        self._row_N = self._shards.rows_of(instances.id_N)
        self.window_N4 = np.zeros((len(self._row_N), 4), np.int64)
        self.window_N4[self._row_N >= 0] = self._shards.window_N4[self._row_N[self._row_N >= 0]]

    def decode(self, row: int) -> U8:
        """The window [h, w, 3] of a row that has one.

        Raises:
            CorruptEntryError: it is not as it was written.
        """
        width, height = self.window_N4[row, 2:].tolist()
        try:
            return decode_image(self._shards.read(int(self._row_N[row])), expect_wh=(width, height))
        except ImageError as error:
            raise CorruptEntryError(
                f"The stored crop of row {row} cannot be decoded: {error}", remedy=Remedy("run", kind="instances", force=True)
            ) from error

    def close(self) -> None:
        """Close the files."""
        self._shards.close()
