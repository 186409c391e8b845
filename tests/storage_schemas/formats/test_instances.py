"""The instance table: reading returns the rows written; other versions and damaged files raise."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.pose.skeleton import COCO_17, Skeleton
from storage_schemas.errors import CorruptEntryError, StoreError
from storage_schemas.formats.instances import (
    Instances,
    Record,
    decode_table,
    encode_table,
    instances_schema,
    read_instances,
    read_skeleton,
    write_instances,
)
from storage_schemas.paths.facts import FileFacts
from tests.support.errors import suggested


def record(annotation_id: int, image_id: int, *, mask: bytes | None = None) -> Record:
    rng = np.random.default_rng(annotation_id)
    return Record(
        annotation_id=annotation_id,
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        width=640 + image_id,
        height=480,
        box_4=rng.random(4),
        center_2=rng.random(2),
        size_2=rng.random(2),
        area=float(annotation_id),
        keypoints_K3=rng.random((17, 3)).astype(np.float32),
        mask_rle=mask,
    )


def facts(*image_ids: int) -> dict[int, FileFacts]:
    return {image_id: FileFacts(1000 + image_id, f"{image_id:064x}") for image_id in image_ids}


def three() -> Instances:
    """The instances 10, 11, 12 on the images 5, 3, 5."""
    rows = [record(10, 5, mask=b"abc"), record(11, 3), record(12, 5, mask=b"")]
    return Instances.from_records(rows, facts(3, 4, 5), COCO_17)


def fields(instances: Instances) -> dict[str, Any]:
    """Every field in a form that compares by value, NaN included."""
    found = {field.name: getattr(instances, field.name) for field in dataclasses.fields(instances)}
    return {
        name: (value.dtype, value.shape, value.tobytes())
        if isinstance(value, np.ndarray)
        else value
        if isinstance(value, list | Skeleton)
        else value.to_pylist()
        for name, value in found.items()
    }


@st.composite
def tables(draw: st.DrawFn) -> Instances:
    num = draw(st.integers(0, 6))

    def floats(dtype: str, *shape: int) -> npt.NDArray[Any]:
        return np.asarray(draw(arrays.arrays(dtype, (num, *shape))), dtype)

    box, center, size = floats("f8", 4), floats("f8", 2), floats("f8", 2)
    area, keypoints = floats("f8"), floats("f4", 17, 3)
    int64, side = st.integers(-(2**63), 2**63 - 1), st.integers(1, 32766)
    ids = draw(st.lists(int64, min_size=num, max_size=num))
    images = draw(st.lists(st.tuples(int64, st.text(min_size=1), side, side), min_size=1, max_size=3, unique_by=lambda p: p[0]))
    masks = draw(st.lists(st.none() | st.binary(), min_size=num, max_size=num))
    rows = []
    for row in range(num):
        image = draw(st.sampled_from(images))
        shape = (box[row], center[row], size[row])
        rows.append(Record(ids[row], *image, *shape, float(area[row]), keypoints[row], masks[row]))
    facts = {key: FileFacts(abs(key) // 2, f"{key:x}") for key, *_ in images}
    return Instances.from_records(rows, facts, COCO_17)


@settings(max_examples=60)
@given(tables())
def test_a_table_decodes_to_what_was_encoded(instances: Instances) -> None:
    assert fields(decode_table(encode_table(instances))) == fields(instances)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_a_file_returns_the_table_written(tmp_path: Path, instances: Instances) -> None:
    write_instances(tmp_path / "instances.parquet", instances)
    assert fields(read_instances(tmp_path / "instances.parquet")) == fields(instances)


def test_an_instance_keeps_its_values_and_image_in_the_file(tmp_path: Path) -> None:
    write_instances(tmp_path / "t", three())
    table = read_instances(tmp_path / "t")
    assert table.id_N.tolist() == [10, 11, 12]
    # Images are in the order of first use, and image 4 is missing since no instance uses it.
    assert table.image_N.tolist() == [0, 1, 0]
    assert table.image_id_M.tolist() == [5, 3]
    assert table.file_name_M == ["5.jpg", "3.jpg"]
    assert table.sha256_M == [f"{5:064x}", f"{3:064x}"]
    assert (table.bytes_M.tolist(), table.width_M.tolist(), table.height_M.tolist()) == ([1005, 1003], [645, 643], [480, 480])
    assert table.area_N.tolist() == [10.0, 11.0, 12.0]
    assert table.has_mask_N.tolist() == [True, False, True]
    assert [mask.as_py() for mask in table.mask_rle] == [b"abc", None, b""]
    np.testing.assert_array_equal(table.keypoints_NK3[1], record(11, 3).keypoints_K3)
    np.testing.assert_array_equal(table.box_N4[2], record(12, 5).box_4)


def test_the_columns_have_the_documented_types(tmp_path: Path) -> None:
    write_instances(tmp_path / "t", three())
    file = pq.ParquetFile(tmp_path / "t")
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types == {
        "id": "int64",
        "image_id": "int64",
        "file_name": "string",
        "image_sha256": "string",
        "image_bytes": "int64",
        "width": "int32",
        "height": "int32",
        "box": "fixed_size_list<element: double>[4]",
        "center": "fixed_size_list<element: double>[2]",
        "size": "fixed_size_list<element: double>[2]",
        "area": "double",
        "keypoints": "fixed_size_list<element: float>[51]",
        "mask_rle": "binary",
    }
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_selection_keeps_the_order_and_only_its_images() -> None:
    by_mask = three().select(np.array([False, True, True]))
    assert by_mask.id_N.tolist() == [11, 12]
    assert (by_mask.image_id_M.tolist(), by_mask.image_N.tolist()) == ([3, 5], [0, 1])
    by_rows = three().select(np.array([2, 0]))
    assert by_rows.id_N.tolist() == [12, 10]
    assert (by_rows.file_name_M, by_rows.image_N.tolist()) == (["5.jpg"], [0, 0])
    assert by_rows.mask_rle.to_pylist() == [b"", b"abc"]
    assert three().select(np.array([], np.int64)).image_id_M.tolist() == []


def test_a_selection_can_be_written_and_read(tmp_path: Path) -> None:
    chosen = three().select(np.array([2, 1]))
    write_instances(tmp_path / "t", chosen)
    assert fields(read_instances(tmp_path / "t")) == fields(chosen)


@pytest.mark.parametrize("metadata", [{b"odkd_instances": b"1"}, {b"odkd_instances": b"\xff"}, {}, None])
def test_a_table_of_another_version_is_refused(tmp_path: Path, metadata: dict[bytes, bytes] | None) -> None:
    pq.write_table(encode_table(three()).replace_schema_metadata(metadata), tmp_path / "t")
    with pytest.raises(StoreError, match="version") as caught:
        read_instances(tmp_path / "t")
    assert suggested(caught.value) == "the same command with --stage prepare --force"


def test_a_table_with_other_columns_or_gaps_is_refused(tmp_path: Path) -> None:
    table = encode_table(three())
    pq.write_table(table.drop_columns(["area"]), tmp_path / "less")
    loose = pa.schema([field.with_nullable(True) for field in table.schema], metadata=table.schema.metadata)
    pq.write_table(table.cast(loose), tmp_path / "nullable")
    for name in ("less", "nullable"):
        with pytest.raises(CorruptEntryError):
            read_instances(tmp_path / name)


@pytest.mark.parametrize("length", [0, 4, 100, -9, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    write_instances(tmp_path / "t", three())
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:length])
    with pytest.raises(CorruptEntryError, match="cannot be read"):
        read_instances(tmp_path / "t")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CorruptEntryError, match="cannot be read") as caught:
            read_instances(path)
        assert suggested(caught.value) == "the same command with --stage prepare --force"


def test_no_changed_bit_returns_other_instances(tmp_path: Path) -> None:
    write_instances(tmp_path / "whole", three())
    whole, expected = (tmp_path / "whole").read_bytes(), fields(three())
    refused = 0
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        (tmp_path / "t").write_bytes(damaged)
        try:
            # A bit of the statistics or of the writer's name changes no instance.
            assert fields(read_instances(tmp_path / "t")) == expected
        except (CorruptEntryError, StoreError):
            refused += 1
    assert refused > len(whole) / 5 / 2


def test_the_table_carries_its_version_and_its_skeleton(tmp_path: Path) -> None:
    metadata = instances_schema(COCO_17).metadata
    assert (metadata[b"odkd_instances"], metadata[b"odkd_skeleton"]) == (b"3", COCO_17.encode())
    write_instances(tmp_path / "t", three())
    assert read_skeleton(tmp_path / "t") == read_instances(tmp_path / "t").skeleton == COCO_17


@pytest.mark.parametrize("skeleton", [b"", b"{}", b"[1]"])
def test_a_table_without_a_skeleton_is_refused(tmp_path: Path, skeleton: bytes) -> None:
    metadata = {b"odkd_instances": b"3", b"odkd_skeleton": skeleton, b"odkd_skeleton_crc32": f"{zlib.crc32(skeleton):08x}"}
    pq.write_table(encode_table(three()).replace_schema_metadata(metadata), tmp_path / "t")
    for read in (read_instances, read_skeleton):
        with pytest.raises(CorruptEntryError, match="skeleton"):
            read(tmp_path / "t")
