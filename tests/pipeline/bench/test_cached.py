"""What is drawn for the benchmark, how it is weighed, and that all ways to keep it give back the same."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bench.drawn import heatmaps
from pipeline.bench.entries import Data
from pipeline.bench.reading import _OURS, _readers
from pipeline.bench.records import read_pickles, read_records, read_said, record_type, write_pickles, write_records
from pipeline.bench.scale import QUICK
from pipeline.bench.sizes import Weighed, find_entries, measure_sizes
from storage_schemas.errors import MissingInputError
from storage_schemas.targets import unpack_bits

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROWS = np.array([7, 3, 250, 64, 0, 299])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("bench"), QUICK)


def test_peaks_lie_on_the_joints_and_a_quarter_is_weak(data: Data) -> None:
    many = data.many
    heat = heatmaps(many.instances, many.views, np.arange(300), "primary", crop_wh=(64, 64))
    peak = heat.max(axis=(2, 3))
    assert 0.15 < (peak < 0.2).mean() < 0.4
    joints = many.instances.keypoints_NK3[..., :2].astype(np.float64)
    xy = np.einsum("nij,nkj->nki", many.views.affine_N23[..., :2], joints) + many.views.affine_N23[:, None, :, 2]
    strong = ((peak > 0.5) & ~many.views.flip_N[:, None]).nonzero()
    y, x = np.unravel_index(heat[strong].reshape(len(strong[0]), -1).argmax(axis=1), (16, 16))
    assert np.abs(np.stack([x, y], 1) - xy[strong] / 4).max() <= 1.0


def test_a_row_is_drawn_alike_whatever_else_is(data: Data) -> None:
    many = data.many
    alone = heatmaps(many.instances, many.views, np.array([5]), "primary", crop_wh=(64, 64))
    among = heatmaps(many.instances, many.views, np.arange(8), "primary", crop_wh=(64, 64))
    other = heatmaps(many.instances, many.views, np.array([5]), "senior", crop_wh=(64, 64))
    assert np.array_equal(alone[0], among[5])
    assert not np.array_equal(alone[0], other[0])


def test_what_is_drawn_is_whole_in_the_store(data: Data) -> None:
    assert data.many.view.problems() == data.many.targets["primary"].problems() == []


def test_the_formats_of_others_give_back_what_ours_holds(data: Data, tmp_path: Path) -> None:
    said = read_said(data.many.view, data.many.targets["primary"])
    write_pickles(tmp_path / "pickles", said)
    write_records(tmp_path / "records", said)
    with (tmp_path / "records").open("rb", buffering=0) as stream:
        found = [read_pickles(tmp_path / "pickles", ROWS), read_records(stream, record_type(said), ROWS)]
    for bits, peak in found:
        assert np.array_equal(bits, said.bits_NP[ROWS])
        assert np.array_equal(peak, said.peak_NK[ROWS])
    assert said.bits_NP[ROWS].any()


def test_every_reader_gives_the_same_targets(data: Data, tmp_path: Path) -> None:
    many = data.many
    bits = unpack_bits(read_said(many.view, many.targets["primary"]).bits_NP, (17, 16, 16))[ROWS]
    with ExitStack() as stack:
        readers = _readers(stack, many, tmp_path, QUICK)
        read = {name: reader(ROWS) for name, reader in readers.items()}
    assert len(read) == 6
    for name in (_OURS, "records in one file, as TinyViT", "a pickle a person, as FKD", "our entry by zarr-python"):
        assert read[name].dtype == torch.float32
        assert np.array_equal(read[name].numpy(), bits.astype(np.float32)), name
    drawn = heatmaps(many.instances, many.views, ROWS % QUICK.dense_rows, "primary", crop_wh=QUICK.crop_wh)
    assert np.array_equal(read["dense float16 Zarr"].numpy(), drawn.astype(np.float16).astype(np.float32))


def test_an_entry_weighs_what_its_files_take(data: Data) -> None:
    many = data.many
    part = measure_sizes(Weighed([many.targets["primary"]], [many.view], "drawn ones"))
    values = {row.name: row.value for row in part.rows}
    for name, entry in (("bits and peaks", many.targets["primary"]), ("crop, flip and mask", many.view)):
        files = [path for path in entry.folder.parent.rglob("*") if path.is_file() and path.suffix != ".lease"]
        assert values[f"ours: {name}, with manifest"] == pytest.approx(sum(path.stat().st_size for path in files) / 300)
    # 17 x 16 x 16 pixels: 544 bytes of bits; beside them a seed of 4 and 17 peaks of 2, or nothing but two bytes a pixel.
    assert values["records of one size, as TinyViT"] == 544 + 4 + 34
    assert values["dense float16 heatmaps, computed"] == 8704
    assert 544 + 34 + 25 < values["a pickle a person, as FKD"] < 1000


def test_entries_of_a_home_are_found_with_their_views(data: Data) -> None:
    many, home = data.many, data.folder / "home"
    home.mkdir()
    (home / "store").symlink_to(data.folder / "many")
    key = many.targets["primary"].key
    found = find_entries(home, [key])
    assert ([entry.key for entry in found.targets], [entry.key for entry in found.views]) == ([key], [many.view.key])
    with pytest.raises(MissingInputError, match=f"no entry targets/beef(.|\n)*there are: {key}"):
        find_entries(home, ["beef"])
