"""The task of stage prepare, run here: what it says of each image, and how a job is divided after a crash."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from stages.distributed.run_tasks import Crashes, TaskOptions, run_tasks
from stages.prepare.image_task import ImagesJob, ImagesResult, crashed, pieces, read_images
from storage_schemas.formats.instances import Record
from storage_schemas.paths.facts import FileFacts
from storage_schemas.paths.local import LocalPath
from tests.support.image_samples import app, chunk, exif, jpeg, png_noise, with_chunks, with_segment


def record(number: int, file_name: str, size_wh: tuple[int, int]) -> Record:
    return Record(
        annotation_id=number,
        image_id=number,
        file_name=file_name,
        width=size_wh[0],
        height=size_wh[1],
        box_4=np.array([1.0, 2.0, 8.0, 9.0]),
        center_2=np.array([5.0, 6.0]),
        size_2=np.array([6.0, 8.0]),
        area=50.0,
        keypoints_K3=np.zeros((17, 3), np.float32),
        mask_rle=None,
    )


def job(root: LocalPath, names: dict[str, tuple[int, int]], *, windows: LocalPath | None = None) -> ImagesJob:
    images = tuple((record(number, name, size_wh),) for number, (name, size_wh) in enumerate(names.items()))
    return ImagesJob(part="windows-00000", root=root, images=images, windows=windows)


def turned(data: bytes, orientation: int) -> bytes:
    if data.startswith(b"\xff\xd8"):
        return with_segment(data, app(1, b"Exif\0\0" + exif(orientation)))
    return with_chunks(data, before=[chunk(b"eXIf", exif(orientation))])


def test_orientations_that_no_size_shows_are_noted_and_the_images_are_used(tmp_path: LocalPath) -> None:
    files = {
        "plain.jpg": jpeg(96, 64),
        "upright.jpg": turned(jpeg(96, 64), 1),
        "upside-down.jpg": turned(jpeg(96, 64), 3),
        "mirrored.png": turned(png_noise(96, 64), 2),
        "square.jpg": turned(jpeg(64, 64), 6),
        "stored.jpg": turned(jpeg(96, 64), 6),
        "shown.jpg": turned(jpeg(64, 96), 6),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = read_images(job(tmp_path, {name: (64, 64) if name == "square.jpg" else (96, 64) for name in files}))
    assert found.turned == {"upside-down.jpg": 3, "mirrored.png": 2, "square.jpg": 6}
    assert [isinstance(facts, FileFacts) for facts in found.facts.values()] == [True] * 6 + [False]
    assert "EXIF orientation 6" in str(found.facts[6])


def test_files_that_cannot_be_reached_are_refused_with_their_reason(tmp_path: LocalPath) -> None:
    root = tmp_path / "images"
    (root / "folder").mkdir(parents=True)
    (root / "good.jpg").write_bytes(jpeg())
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "ring").symlink_to(root / "ring2")
    (root / "ring2").symlink_to(root / "ring")
    names = ["good.jpg", "dangling.jpg", "loop.jpg", "ring/a.jpg", "folder", "gone/a.jpg", "good.jpg/a.jpg"]
    found = read_images(job(root, dict.fromkeys(names, (96, 64))))
    assert isinstance(found.facts[0], FileFacts)
    assert all(str(found.facts[number]).startswith("file: ") for number in range(1, len(names)))
    assert found.turned == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: LocalPath) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "a.jpg").chmod(0)
    assert "Permission denied" in str(read_images(job(tmp_path, {"a.jpg": (96, 64)})).facts[0])


def test_pieces_are_all_images_once_in_parts_of_other_names(tmp_path: LocalPath) -> None:
    whole = job(tmp_path, {f"{number}.jpg": (96, 64) for number in range(256)}, windows=tmp_path / "windows")
    first = pieces(whole)
    assert [size for _, size in first] == [16] * 16
    single = [piece for job, _ in first for piece, _ in pieces(job)]
    assert [images for piece in single for images in piece.images] == list(whole.images)
    assert len({piece.part for piece in single} | {job.part for job, _ in first} | {whole.part}) == 1 + 16 + 256
    assert all(pieces(piece) == [] for piece in single)
    assert {(piece.root, piece.windows) for piece in single} == {(whole.root, whole.windows)}
    assert [size for _, size in pieces(job(tmp_path, {f"{number}.jpg": (9, 9) for number in range(3)}))] == [1, 1, 1]


def test_the_image_of_a_job_that_crashed_alone_is_refused(tmp_path: LocalPath) -> None:
    found = crashed(job(tmp_path, {"a.jpg": (96, 64)}))
    assert found.facts == {0: "decode: each process that read this image, and no other one, was killed or crashed"}
    assert (found.windows, found.turned) == ([], {})


# On a real Ray


def _read_or_crash(job: ImagesJob) -> ImagesResult:
    """A stand-in for a decoder with a fault: the process ends at one of the images."""
    if any(records[0].file_name == "crash.jpg" for records in job.images):
        os.kill(os.getpid(), signal.SIGSEGV)
    return read_images(job)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_an_image_that_crashes_its_process_is_refused_and_costs_no_other(tmp_path: LocalPath) -> None:
    names = [*(f"{number}.jpg" for number in range(16)), "crash.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(jpeg())
    jobs = [(job(tmp_path, dict.fromkeys(names, (96, 64)), windows=tmp_path / "windows"), len(names))]
    on_crash, options = Crashes(pieces, crashed), TaskOptions(cpus=1, gpus=0)
    results = run_tasks(_read_or_crash, jobs, options=options, title="test", unit="images", on_crash=on_crash)
    facts = {image_id: facts for _, result in results for image_id, facts in result.facts.items()}
    assert sorted(facts) == list(range(17))
    assert [image_id for image_id, found in facts.items() if not isinstance(found, FileFacts)] == [16]
    assert str(facts[16]).startswith("decode: each process that read this image")
