"""Whole runs of students that are not the demo's: first weights, people without labels, stacks, harder crops."""

from __future__ import annotations

import json

import pytest
import torch

from stages.networks.spec import architecture
from storage_schemas.formats.checkpoints import load_weights
from storage_schemas.paths.local import LocalPath
from tests.support.whole_runs import TINY, done, entry_of, metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]

FEW = {"data__embedded__train_images": 80, "data__embedded__unlabelled": 0.5, "distill__use_unlabelled": True}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, warm: None) -> LocalPath:
    """A home with targets for all people, of whom half have labels."""
    home = LocalPath(tmp_path_factory.mktemp("students") / "home")
    for stage in ("prepare", "teachers", "targets"):
        done(home, stage, **FEW)
    return home


def test_people_without_labels_are_taught_by_the_teachers_and_not_read_by_the_baseline(prepared: LocalPath) -> None:
    ran = done(prepared, "distill", **FEW, distill__labelled_share=0.5, distill__hard={"joint_cutout": 0.5, "colour": 0.2})
    table = entry_of(prepared, "train instances").measured
    assert 0 < table["labelled"] < table["instances"]
    titles = ("student", "baseline (the student without teachers)")
    student, baseline = (entry_of(prepared, title).manifest.recipe["distill"] for title in titles)
    assert (student["only_labelled"], student["labelled_share"]) == (False, 0.5)
    assert (baseline["only_labelled"], baseline["labelled_share"]) == (True, None)
    assert student["hard"] == baseline["hard"] == {"joint_cutout": 0.5, "cutout": 0.0, "colour": 0.2, "blur": 0.0}
    assert "distill: done" in ran.err
    done(prepared, "evaluate", **FEW, distill__labelled_share=0.5, distill__hard={"joint_cutout": 0.5, "colour": 0.2})
    assert 0 <= metrics(prepared)["evaluate"]["student"]["AP"] <= 1


def test_a_student_starts_from_the_users_first_weights(prepared: LocalPath, tmp_path: LocalPath) -> None:
    network = architecture("hrnet_w8_tiny").build(num_keypoints=14, generator=torch.Generator().manual_seed(5))
    torch.save(network.state_dict(), tmp_path / "first.pth")
    source = {"network": "hrnet_w8_tiny", "init": str(tmp_path / "first.pth"), "input": {"channels": "bgr"}}
    # A rate of nearly nothing: what is left are the first weights.
    changes = {**FEW, "distill__student": source, "distill__lr": 1e-12, "distill__baseline": False}
    ran = done(prepared, "distill", **changes)
    assert f"distill: student: first weights from {tmp_path / 'first.pth'}: " in ran.err
    assert "new: final_layer; it is fed BGR" in ran.err
    checkpoint = load_weights(entry_of(prepared, "student").file("weights.safetensors").fetch())
    assert json.loads(checkpoint.description["input"])["channels"] == "bgr"
    assert torch.allclose(checkpoint.state["conv1.weight"], network.state_dict()["conv1.weight"], atol=1e-6)
    assert checkpoint.state["final_layer.weight"].shape[0] == 17


@pytest.mark.parametrize("network", ["hourglass_2x64", pytest.param("lite_hrnet_18", marks=pytest.mark.long)])
def test_other_architectures_are_taught_and_scored(prepared: LocalPath, network: str) -> None:
    changes = {**FEW, "distill__student": {"network": network}, "distill__baseline": False, "distill__batch_size": 32}
    done(prepared, "distill", **changes)
    done(prepared, "evaluate", **changes)
    assert entry_of(prepared, "student").measured["network"] == network
    assert TINY["distill.student.network"] != network
