"""The keys of the demo's plan, held against literals: a change that moves a key moves it knowingly, for every user's cache."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import graph
from tests.support.step_samples import make_context, with_all

GOLDEN = Path(__file__).with_name("golden_keys.json")


def plan_keys(home: Path) -> dict[str, str]:
    """The entry of each step of the demo, by stage and title; contents are made up, device and precision fixed."""
    sections = ("targets", "distill", "teachers.primary.train", "teachers.senior.train")
    context = with_all(make_context(home, *(f"{section}.precision=float32" for section in sections)))
    return {f"{step.stage}: {step.title}": step.entry_id for stage in graph.STAGES.values() for step in stage.steps(context)}


def test_the_keys_of_the_demo_are_the_golden_ones(tmp_path: Path) -> None:
    # To accept new keys on purpose: PYTHONPATH=.:tests python tests/test_golden_keys.py > tests/golden_keys.json
    assert plan_keys(tmp_path) == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(plan_keys(Path(folder)), indent=1) + "\n")
