"""Drawn entries of the benchmark: their content, their sizes, and the same content from each file layout."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.bench.drawn import heatmaps
from pipeline.bench.entries import Data
from pipeline.bench.reading import _OURS, _readers
from pipeline.bench.records import COMPRESSED, PICKLES, RECORDS, as_records, compressed, read_view_targets
from pipeline.bench.scale import QUICK
from pipeline.bench.sizes import TargetEntries, find_entries, measure_sizes
from storage_schemas.errors import ConfigError
from storage_schemas.formats.targets import unpack_bits
from storage_schemas.paths.local import LocalPath
from tests.support.buckets import local

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROWS = np.array([7, 3, 250, 64, 0, 299])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(LocalPath(tmp_path_factory.mktemp("bench")), QUICK)


def test_peaks_lie_on_the_joints_and_a_quarter_is_weak(data: Data) -> None:
    cached = data.cached
    heat = heatmaps(cached.instances, cached.views, np.arange(300), "primary", crop_wh=(64, 64))
    peak = heat.max(axis=(2, 3))
    assert 0.15 < (peak < 0.2).mean() < 0.4
    joints = cached.instances.keypoints_NK3[..., :2].astype(np.float64)
    xy = np.einsum("nij,nkj->nki", cached.views.affine_N23[..., :2], joints) + cached.views.affine_N23[:, None, :, 2]
    strong = ((peak > 0.5) & ~cached.views.flip_N[:, None]).nonzero()
    y, x = np.unravel_index(heat[strong].reshape(len(strong[0]), -1).argmax(axis=1), (16, 16))
    assert np.abs(np.stack([x, y], 1) - xy[strong] / 4).max() <= 1.0


def test_a_drawn_row_does_not_depend_on_the_other_rows(data: Data) -> None:
    cached = data.cached
    alone = heatmaps(cached.instances, cached.views, np.array([5]), "primary", crop_wh=(64, 64))
    among = heatmaps(cached.instances, cached.views, np.arange(8), "primary", crop_wh=(64, 64))
    other = heatmaps(cached.instances, cached.views, np.array([5]), "senior", crop_wh=(64, 64))
    assert np.array_equal(alone[0], among[5])
    assert not np.array_equal(alone[0], other[0])


def test_drawn_entries_verify(data: Data) -> None:
    assert data.cached.view.damaged() == data.cached.targets["primary"].damaged() == {}


def test_every_reader_gives_the_same_targets(data: Data, tmp_path: LocalPath) -> None:
    cached = data.cached
    bits = unpack_bits(read_view_targets(cached.view, cached.targets["primary"]).bits_NP, (17, 16, 16))[ROWS]
    assert bits.any()
    with ExitStack() as stack:
        readers = _readers(stack, cached, tmp_path, QUICK)
        read = {name: reader(ROWS) for name, reader in readers.items()}
    assert len(read) == 8
    for name in (_OURS, RECORDS, COMPRESSED, PICKLES, "our entry by zarr-python"):
        assert read[name].dtype == torch.uint8
        assert np.array_equal(read[name].numpy(), bits.astype(np.float32)), name
    drawn = heatmaps(cached.instances, cached.views, ROWS % QUICK.dense_rows, "primary", crop_wh=QUICK.crop_wh)
    for name in ("dense float16 Zarr", "dense float16 in a map"):
        assert np.array_equal(read[name].numpy(), drawn.astype(np.float16).astype(np.float32)), name


def test_a_compressed_record_decompresses_to_the_record(data: Data) -> None:
    records = as_records(read_view_targets(data.cached.view, data.cached.targets["primary"], stop=3))
    assert list(records["seed"]) == [0, 1, 2]
    given_back = [pa.decompress(part, records.nbytes // 3, codec="zstd", asbytes=True) for part in compressed(records)]
    assert b"".join(given_back) == records.tobytes()


def test_the_size_of_an_entry_is_the_sum_of_its_files(data: Data) -> None:
    cached = data.cached
    part = measure_sizes(TargetEntries([cached.targets["primary"]], [cached.view], "drawn ones"), asked=True)
    values = {row.name: row.value for row in part.rows}
    for name, entry in (("bits and peaks", cached.targets["primary"]), ("crop, flip and mask", cached.view)):
        files = [path for path in local(entry.folder.parent).rglob("*") if path.is_file() and path.suffix != ".lease"]
        assert values[f"ours: {name}, with manifest"] == pytest.approx(sum(path.stat().st_size for path in files) / 300)
    # 17 x 16 x 16 pixels: 544 bytes of bits; beside them a seed of 4 and 17 peaks of 2, or nothing but two bytes a pixel.
    assert values[RECORDS] == 544 + 4 + 34
    assert values["dense float16 heatmaps, computed"] == 8704
    assert 544 + 34 + 25 < values[PICKLES] < 1000
    assert 34 < values[COMPRESSED] < values[RECORDS]


def test_only_entries_of_a_home_have_verdicts(data: Data) -> None:
    entries = TargetEntries([data.cached.targets["primary"]], [data.cached.view], "drawn ones")
    asks = [[row.ask.most for row in measure_sizes(entries, asked=asked).rows if row.ask] for asked in (True, False)]
    assert asks == [[200, 130], []]


@pytest.mark.parametrize("spelling", ["{}", "targets/{}", "{:.11}"])
def test_entries_of_a_home_are_found_with_their_views(data: Data, spelling: str) -> None:
    cached = data.cached
    key = cached.targets["senior"].key
    found = find_entries(data.folder, [spelling.format(key)])
    assert ([entry.key for entry in found.targets], [entry.key for entry in found.views]) == ([key], [cached.view.key])


def test_a_view_is_refused_where_targets_are_expected(data: Data) -> None:
    with pytest.raises(ConfigError, match="No entry in"):
        find_entries(data.folder, [f"views/{data.cached.view.key}"])
